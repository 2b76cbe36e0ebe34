"""LSMDC: 118,081 clips of 2 to 30 s from 202 films, a sentence each.

xclip-jax build lsmdc --annotations DIR --videos DIR --out shards/lsmdc
xclip-jax download clip:ViT-B/32
xclip-jax train --config lsmdc --from-clip ViT-B-32.pt --workdir runs/lsmdc
xclip-jax train --config lsmdc:model=clip4clip,head=meanP ...

Published, in percent (SPEC 14), recalls and mean rank:

                        text to video     video to text
                        R@1   R@5   MnR   R@1   R@5   MnR
X-CLIP B/32             23.3  43.0  56.0  22.5  42.2  50.7
X-CLIP B/16             26.1  48.4  46.7  26.9  46.2  41.9
CLIP4Clip B/32
  meanP                 20.7  38.9  65.3  20.6  39.4  56.7
  seqLSTM               21.6  41.8  58.0  20.9  40.7  53.9   (R@10 49.8)
  seqTransf             22.6  41.0  61.0  20.8  39.0  54.2
  tightTransf           18.9  37.8  61.6  17.4  36.7  65.3
CLIP4Clip B/16
  meanP                 23.5  43.2  54.8  22.6  50.5  50.3   (50.5 is as printed; implausible)
  seqLSTM               21.9  39.5  60.7  19.3  39.3  57.6
  seqTransf             23.5  45.2  51.6  23.2  42.4  47.4
  tightTransf           19.4  39.1  62.2  16.1  37.7  58.3

X-CLIP chose its epoch on val, CLIP4Clip on test. CLIP2Video has no recipe here: MSR-VTT's.
"""

import ml_collections

from xclip_jax.configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns a recipe; `arg` may set model=, arch=, head=, optimizer=, smoke."""
    return common.benchmark(
        common.parse_arg(arg, **common.RECIPE),
        "lsmdc",
        splits=("train", "val", "test"),
        words=32,
        frames=12,
        epochs=5,
        batches={"vit_b32": (300, 64), "vit_b16": (80, 64)},
        gpus=4,
    )
