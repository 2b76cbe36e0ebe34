"""A model on your own clips, listed in a JSON-lines or CSV file.

xclip-jax build jsonl --captions my_clips.jsonl --out shards/mine
xclip-jax train --config jsonl --config.data.dir=shards/mine --workdir runs/mine
"""

import ml_collections

from xclip_jax.configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns a small model trained from scratch; `arg` may set model=, arch=, head=, smoke.

    `arch=vit_b32` and its like give CLIP's own sizes and the paper's optimizer, for weights
    converted from CLIP; `optimizer=` chooses another, with rates that suit those weights.
    """
    arg = common.parse_arg(
        arg, model="xclip", arch="custom", head="seqTransf", optimizer="", smoke=False
    )
    config = common.get_config(arg.model)
    config.model.head = arg.head
    config.data.dir = "shards/mine"
    config.batch_size = 64
    if arg.arch == "custom":
        common.from_scratch(config)
        common.small(config, image_size=112)
    else:
        config.model.arch = arg.arch
    if arg.optimizer:
        common.tune(config, arg.optimizer)
    if arg.smoke:
        common.shrink(config)
    return config.lock()
