"""A fine-tuning recipe that starts without weights trains towers that hardly move."""

import ml_collections

DOWNLOADS = {"vit_b32": "clip:ViT-B/32", "vit_b16": "clip:ViT-B/16", "vit_l14": "clip:ViT-L/14"}


def find(config: ml_collections.ConfigDict) -> str:
    """Returns one line where a run would start from random weights under a fine-tuning recipe;
    "" for any other."""
    adam = config.optimizer
    if config.init.clip or adam.clip_multiplier >= 1:
        return ""
    rate = adam.learning_rate * adam.clip_multiplier
    return (
        f"random weights under a fine-tuning recipe: without --from-clip FILE a random CLIP learns"
        f" at {rate:.1e}, a rate for trained weights"
    )


def warning(config: ml_collections.ConfigDict) -> str:
    """Returns `find`'s line as a block that no one overlooks, with what to do; "" without one."""
    if not (found := find(config)):
        return ""
    name = DOWNLOADS.get(config.model.arch)
    fetch = f"xclip-jax download {name}, then " if name else ""
    scratch = {"name": "adamw", "learning_rate": 1e-3, "clip_multiplier": 1, "freeze_layers": -1}
    flags = " ".join(f"--config.optimizer.{key}={value}" for key, value in scratch.items())
    lines = [
        f"WARNING: {found}.",
        f"  from CLIP's weights:  {fetch}--from-clip FILE",
        f"  from scratch:         {flags}",
    ]
    bar = "!" * 100
    return "\n".join([bar, *lines, bar])
