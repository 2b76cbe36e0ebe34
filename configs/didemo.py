"""DiDeMo: 10,461 videos of which the first 30 s count; all sentences of one are one paragraph.

xclip-jax build didemo --annotations DIR --videos DIR --out shards/didemo
xclip-jax download clip:ViT-B/32
xclip-jax train --config didemo --from-clip ViT-B-32.pt --workdir runs/didemo
xclip-jax train --config didemo:model=clip4clip,head=meanP ...

Published, in percent (SPEC 14), recalls and mean rank:

                        text to video           video to text
                        R@1   R@5   R@10  MnR   R@1   R@5   R@10  MnR
X-CLIP B/32             45.2  74.0        14.6  43.1  72.2        10.9
X-CLIP B/16             47.8  79.3        12.6  47.8  76.8        10.5
CLIP4Clip B/32
  meanP                 43.4  70.2  80.6  17.5  42.5  70.6  80.2  11.6
  seqLSTM               43.4  69.9        17.5  42.4  69.2        11.8
  seqTransf             42.8  68.5        18.9  41.4  68.2        12.4
  tightTransf           25.8  52.8        27.3  21.5  51.1        22.4
CLIP4Clip B/16
  meanP                 44.8  75.1        13.0  47.2  74.0        10.5
  seqLSTM               44.7  72.2        15.5  43.9  72.5        11.8
  seqTransf             44.8  73.4        13.5  44.7  74.0        10.6
  tightTransf           34.8  65.8        20.5  36.5  65.5        13.9

X-CLIP chose its epoch on val, CLIP4Clip on test. CLIP2Video has no recipe here: CLIP4Clip's. The
window of 31 s gives at most 32 of the 64 frames (docs/parity.md, row 15).
"""

import ml_collections

from xclip_jax.configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns a recipe; `arg` may set model=, arch=, head=, optimizer=, smoke."""
    arg = common.parse_arg(arg, **common.RECIPE)
    config = common.benchmark(
        arg,
        "didemo",
        splits=("train", "val", "test"),
        words=64,
        frames=64,
        epochs=20,
        batches={"vit_b32": (64, 24), "vit_b16": (16, 8)},
        gpus=4 if arg.model == "xclip" else 8,
    )
    if arg.model != "clip2video" and not arg.smoke:
        config.data.encoded_frames = 32  # the window's seconds and its end
    return config
