"""Time and cost from a compiled step: the roofline's, an estimate."""

from pathlib import Path

import ml_collections

from xclip_jax import input as pipeline
from xclip_jax import protocol, train
from xclip_jax.plan import collectives, roofline
from xclip_jax.plan.topology import Topology


def step(facts: dict, videos: int, topology: Topology, arithmetic: str) -> dict:
    """Returns the roofline of a step: seconds by resource, and both ends of what follows."""
    spent = roofline.seconds(
        topology.chip,
        topology.shape,
        arithmetic=arithmetic,
        flops=facts["executed_flops"],
        hbm_bytes=facts["hbm_bytes"],
        collectives=[collectives.Collective(**one) for one in facts["collectives"]],
    )
    ends = {"best": spent.overlapped, "worst": spent.in_turn}
    return {
        "seconds": spent._asdict(),
        "bound": spent.bound,
        "step_seconds": ends,
        "mfu": {
            end: roofline.mfu(
                topology.chip, arithmetic=arithmetic, flops=facts["flops"], seconds=time_taken
            )
            for end, time_taken in ends.items()
        },
        "videos_per_second": {end: videos / time_taken for end, time_taken in ends.items()},
    }


def run(
    estimated: dict, config: ml_collections.ConfigDict, pairs: int, chips: int, price: float | None
) -> dict:
    """Returns steps, hours and cost of the run that the config describes, training alone.

    `price` is of a chip and an hour, in any currency.
    """
    epoch, total = train.epoch_steps(config, pairs), train.total_steps(config, pairs)
    hours = {end: total * one / 3600 for end, one in estimated["step_seconds"].items()}
    facts = {
        "pairs": pairs,
        "steps": total,
        "epoch_seconds": {end: epoch * one for end, one in estimated["step_seconds"].items()},
        "hours": hours,
    }
    if price is not None:
        facts["price"] = price
        facts["cost"] = {end: chips * price * one for end, one in hours.items()}
    return facts


def training_pairs(config: ml_collections.ConfigDict, given: int | None) -> int | None:
    """Returns how many (video, caption) pairs an epoch has: as given, or those of the shards."""
    if given is not None or not config.data.dir or not Path(config.data.dir).is_dir():
        return given
    captions = config.data.captions_per_video
    return captions * len(pipeline.examples(protocol.open_data(config).train, captions))
