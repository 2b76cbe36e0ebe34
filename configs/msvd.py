"""MSVD: 1,970 clips of 1 to 62 s, about 40 captions each, all of which are evaluated.

xclip-jax build msvd --annotations DIR --videos DIR --out shards/msvd
xclip-jax download clip:ViT-B/32
xclip-jax train --config msvd --from-clip ViT-B-32.pt --workdir runs/msvd
xclip-jax train --config msvd:model=clip4clip,head=meanP ...
xclip-jax eval --workdir runs/msvd --ties reference

Published, in percent (SPEC 14), recalls and mean rank:

                        text to video           video to text
                        R@1   R@5   R@10  MnR   R@1   R@5   R@10  MnR
X-CLIP B/32             47.1  77.8         9.5  60.9  87.8         4.7
X-CLIP B/16             50.4  80.6         8.4  66.8  90.4         4.2
CLIP4Clip B/32
  meanP                 46.2  76.1  84.6  10.0  56.6  79.7  84.3   7.6
  seqLSTM               46.2  75.3        10.2  52.5  74.0        14.7
  seqTransf             45.2  75.5        10.3  62.0  87.3         4.3
  tightTransf           40.0  71.5        13.3  54.3  85.3         6.0
CLIP4Clip B/16
  meanP                 47.3  77.7         9.1  62.9  87.2         4.2
  seqLSTM               48.4  78.0         9.1  61.2  87.6         5.0
  seqTransf             47.2  77.7         9.1  63.2  87.2         4.2
  tightTransf           43.6  75.3        10.8  58.8  88.9         4.7
CLIP2Video B/32         47.0  76.8  85.9   9.6  58.7  85.6  91.6   4.3

Video to text hangs on ties: captions repeat across videos, and the references count a row of t
equal scores t times (docs/parity.md, row 1). X-CLIP chose its epoch on val, CLIP4Clip on test.
"""

import ml_collections

from xclip_jax.configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns a recipe; `arg` may set model=, arch=, head=, optimizer=, smoke."""
    return common.benchmark(
        common.parse_arg(arg, **common.RECIPE),
        "msvd",
        splits=("train", "val", "test"),
        words=32,
        frames=12,
        epochs=5,
        batches={"vit_b32": (300, 96), "vit_b16": (80, 64)},
        gpus=4,
    )
