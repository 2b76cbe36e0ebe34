"""A model from scratch on the embedded data set of moving shapes: minutes on two CPU cores.

xclip-jax build shapes --out shards/shapes
xclip-jax train --config shapes --config.data.dir=shards/shapes --workdir runs/shapes
xclip-jax train --config shapes:head=meanP --workdir runs/blind  # to time: twins at 0.5
xclip-jax train --config shapes:model=clip4clip,head=tightTransf --workdir runs/tight
"""

import ml_collections

from xclip_jax.configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the settings; `arg` may set model=, head=, seed= and smoke."""
    arg = common.parse_arg(arg, model="xclip", head="seqTransf", seed=0, smoke=False)
    config = common.get_config(arg.model)
    config.seed = arg.seed
    common.from_scratch(config)
    common.small(config, image_size=64)
    config.model.head = arg.head
    if arg.model == "xclip":
        # Its learned matrices are indexed by frame position: with them even meanP tells a clip from
        # its reversed twin (0.93 of the time). The control that is blind to time has none.
        config.model.learned_mixing = arg.head != "meanP"
    config.data.dir = "shards/shapes"
    config.data.twin_split = "twins"
    config.data.max_words, config.data.max_frames = 16, 8
    config.batch_size = 64
    config.epochs = 5  # 1560 steps
    if arg.smoke:
        common.shrink(config)
    return config.lock()
