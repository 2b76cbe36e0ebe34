"""MSR-VTT: 10,000 clips of 10 to 30 s, 20 captions each.

xclip-jax build msrvtt --annotations DIR --videos DIR --out shards/msrvtt
xclip-jax download clip:ViT-B/32
xclip-jax train --config msrvtt --from-clip ViT-B-32.pt --workdir runs/msrvtt
xclip-jax train --config msrvtt:arch=vit_b16 ...
xclip-jax train --config msrvtt:split=7k,model=clip4clip,head=seqTransf ...
xclip-jax train --config msrvtt:split=full,model=clip2video ...  on a build of --policy native_5fps
xclip-jax train --config msrvtt --config.select_on=test ...  as the published numbers were chosen
xclip-jax train --config msrvtt --config.select_on=val --config.data.held_out=500 ...

Published, in percent (SPEC 14), on 1k-A after training on 9k (mean rank last):

                        text to video                 video to text
                        R@1   R@5   R@10  MdR   MnR   R@1   R@5   R@10  MdR   MnR
X-CLIP B/32             46.1  73.0  83.1  2.0  13.2   46.8  73.3  84.0  2.0   9.1
X-CLIP B/16             49.3  75.8  84.8  2.0  12.2   48.9  76.8  84.5  2.0   8.1
CLIP4Clip B/32
  meanP                 43.1  70.4  80.8  2.0  16.2   43.1  70.5  81.2  2.0  12.4
  seqLSTM               42.5  70.8  80.7  2.0  16.7   42.8  71.0  80.4  2.0  12.3
  seqTransf             44.5  71.4  81.6  2.0  15.3   42.7  70.9  80.6  2.0  11.6
  tightTransf           40.2  71.5  80.5  2.0  13.4   40.6  69.5  79.5  2.0  13.6
CLIP4Clip B/16
  meanP                 45.3  73.3  83.0  2.0  13.0   44.8  73.2  82.2  2.0   9.6
  seqLSTM               44.3  72.0  82.2  2.0  13.7   44.3  73.4  82.4  2.0  10.3
  seqTransf             46.4  72.1  82.0  2.0  14.7   45.4  73.4  82.4  2.0  10.7
  tightTransf           42.9  71.7  81.5  2.0  13.3   41.9  71.0  80.7  2.0  10.1
CLIP2Video B/32         45.6  72.6  81.7  2    14.6   43.5  72.3  82.1  2    10.2
  split=full            29.8  55.5  66.2  4    45.5   54.6  82.1  90.8  1     5.3
CLIP4Clip B/32, split=7k, recalled by SPEC's authors and not verified
  meanP                 42.1  71.9  81.4       15.7
  seqLSTM               41.7  68.8  78.6       16.6
  seqTransf             42.0  68.6  78.7       16.2
  tightTransf           37.8  68.4  78.4       13.5

All are the best epoch on the test clips themselves (CLIP2Video's too, as far as is known).
"""

import ml_collections

from xclip_jax.configs import common

SPLITS = {  # to train on, to choose a checkpoint on, to test on
    "9k": ("train_9k", "", "test_1ka"),
    "7k": ("train_7k", "", "test_1ka"),
    "full": ("train_full", "val_full", "test_full"),
    "1kb": ("train_1kb", "", "test_1kb"),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns a recipe; `arg` may set split=9k|7k|full|1kb, model=, arch=, head=, optimizer=,
    smoke."""
    arg = common.parse_arg(arg, split="9k", **common.RECIPE)
    config = common.benchmark(
        arg,
        "msrvtt",
        splits=common.choose("split", arg.split, SPLITS),
        words=32,
        frames=12,
        epochs=5,
        batches={"vit_b32": (300, 40), "vit_b16": (80, 40)},
        gpus=4,
    )
    if arg.model == "clip2video":
        config.data.frame_divisor = 2
    return config
