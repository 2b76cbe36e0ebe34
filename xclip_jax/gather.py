"""What each host has read of a split, made known to all of them."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from xclip_jax.holdout import Part
from xclip_jax.input import own_videos
from xclip_jax.records import Shards
from xclip_jax.tokenizer import Tokenizer


def all_tokens(
    tokenizer: Tokenizer, captions: list[str], shards: Shards | Part, words: int, *, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens [N, W] and mask of all captions of a split, of which each host has those of
    the videos that it read."""
    own = tokenizer(captions, words)
    hosts = jax.process_count()
    if hosts == 1:
        return own
    counts = np.asarray(shards.captions_per_video)
    ends = np.cumsum(counts)
    rows = [  # of each host: where its captions stand among all
        np.concatenate([np.arange(ends[i] - counts[i], ends[i]) for i in videos] or [ends[:0]])
        for videos in (
            own_videos(len(counts), batch_size=batch_size, host=host) for host in range(hosts)
        )
    ]
    most = max(map(len, rows))
    even = [np.pad(x, ((0, most - len(x)), (0, 0))) for x in own]
    gathered = multihost_utils.process_allgather(even)
    whole = [np.zeros((ends[-1], words), x.dtype) for x in own]
    for x, parts in zip(whole, gathered, strict=True):
        for host, places in enumerate(rows):
            x[places] = parts[host][: len(places)]
    return tuple(whole)
