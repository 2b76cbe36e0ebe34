"""Whether a run is worth renting chips for: it fits, and the recipe has the weights it is for."""

import ml_collections

from xclip_jax.training import random_weights

GIB = 2**30
SMALLER = (
    "try --config.model.dtype=bfloat16, --config.model.remat=full, --config.micro_batch, more chips"
    " or a smaller batch"
)


def problems(config: ml_collections.ConfigDict, facts: dict) -> list[str]:
    """Returns a sentence for each reason not to start this run on these chips.

    Args:
      config: of the run, with `init.clip` where weights were named.
      facts: of one topology and batch, as `compiled.whole` returns them.
    """
    if "problem" in facts:
        return [facts["problem"]]
    programs = {"the train step": facts["step"]}
    programs |= {f"evaluation ({name})": one for name, one in facts.get("evaluation", {}).items()}
    place = f"{facts['topology']}, batch {facts['batch_size']:,}"
    found = [
        f"{place}: {name} does not fit{_amount(one)}; {SMALLER}"
        for name, one in programs.items()
        if one["fits"] is False
    ]
    if random_weights.starts_random_but_fine_tunes(config):
        found.append(
            "no weights are named, and this recipe trains CLIP's part at"
            f" {config.optimizer.clip_multiplier:g} of the learning rate, which is meant for"
            " pretrained weights: give --from-clip FILE"
        )
    return found


def _amount(program: dict) -> str:
    memory = program["memory"]
    needed = memory.get("peak", memory.get("needed"))
    room = program["hbm_gib"] * GIB if "hbm_gib" in program else memory.get("available")
    if needed is None or room is None:
        return ""
    return f" (needs {needed / GIB:.2f} GiB a chip of {room / GIB:.2f})"
