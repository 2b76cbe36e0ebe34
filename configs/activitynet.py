"""ActivityNet Captions: 20,000 videos of about 2 min; all sentences of one are one paragraph.

xclip-jax build activitynet --annotations DIR --videos DIR --out shards/activitynet
xclip-jax download clip:ViT-B/32
xclip-jax train --config activitynet --from-clip ViT-B-32.pt --workdir runs/activitynet
xclip-jax train --config activitynet:model=clip4clip,head=meanP ...
xclip-jax train --config activitynet --config.select_on=test ...  as the numbers were chosen
xclip-jax train --config activitynet --config.select_on=val --config.data.held_out=500 ...

Published, in percent (SPEC 14), on val_1, here the split `test`; recalls and mean rank:

                        text to video     video to text
                        R@1   R@5   MnR   R@1   R@5   MnR
X-CLIP B/32             44.3  74.1   7.9  43.9  73.9   7.6
X-CLIP B/16             46.2  75.5   6.8  46.4  75.9   6.4
CLIP4Clip B/32
  meanP                 40.5  72.4   7.4  42.5  74.1   6.6
  seqLSTM               40.1  72.2   7.3  42.6  73.4   6.7
  seqTransf             40.5  72.4   7.5  41.4  73.7   6.7   (R@50 98.2)
  tightTransf           19.5  47.6  17.3  18.9  49.6  16.3
CLIP4Clip B/16
  meanP                 44.0  73.9   7.0  44.1  74.0   6.5
  seqLSTM               44.4  74.9   6.4  44.7  75.1   6.3
  seqTransf             44.5  75.2   6.4  44.1  75.2   6.4
  tightTransf           30.8  64.3   9.8  29.6  62.3   9.9

All are the best epoch on val_1 itself. CLIP2Video has no recipe here: CLIP4Clip's.
"""

import ml_collections

from xclip_jax.configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns a recipe; `arg` may set model=, arch=, head=, optimizer=, smoke."""
    return common.benchmark(
        common.parse_arg(arg, **common.RECIPE),
        "activitynet",
        splits=("train", "", "test"),
        words=64,
        frames=64,
        epochs=20,
        batches={"vit_b32": (112, 16), "vit_b16": (32, 16)},
        gpus=8,
    )
