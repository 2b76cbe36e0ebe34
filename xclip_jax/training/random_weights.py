"""A fine-tuning recipe that starts without weights trains towers that hardly move."""

import ml_collections

DOWNLOADS = {"vit_b32": "clip:ViT-B/32", "vit_b16": "clip:ViT-B/16", "vit_l14": "clip:ViT-L/14"}


def starts_random_but_fine_tunes(config: ml_collections.ConfigDict) -> bool:
    """Returns whether a recipe slows CLIP's learning down, as for trained weights, and has none."""
    return not config.init.clip and config.optimizer.clip_multiplier < 1


def warning(config: ml_collections.ConfigDict) -> str:
    """Returns what a run says before its first step where it fine-tunes random weights, as a block
    that no one overlooks; "" for any other."""
    if not starts_random_but_fine_tunes(config):
        return ""
    rate = config.optimizer.learning_rate * config.optimizer.clip_multiplier
    name = DOWNLOADS.get(config.model.arch)
    fetch = f"xclip-jax download {name}, then " if name else ""
    scratch = {"name": "adamw", "learning_rate": 1e-3, "clip_multiplier": 1, "freeze_layers": -1}
    flags = " ".join(f"--config.optimizer.{key}={value}" for key, value in scratch.items())
    lines = [
        "WARNING: random weights under a fine-tuning recipe: without --from-clip FILE a random CLIP"
        f" learns at {rate:.1e}, a rate for trained weights.",
        f"  from CLIP's weights:  {fetch}--from-clip FILE",
        f"  from scratch:         {flags}",
    ]
    bar = "!" * 100
    return "\n".join([bar, *lines, bar])
