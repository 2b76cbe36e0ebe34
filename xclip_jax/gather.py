"""The captions that each host has read of a split, made known to all of them."""

import jax
import numpy as np
from jax.sharding import Mesh

from xclip_jax import sharding
from xclip_jax.holdout import Part
from xclip_jax.input import own_videos
from xclip_jax.parallel import row_sharding
from xclip_jax.records import Shards


def all_tokens(
    own: tuple[np.ndarray, np.ndarray], shards: Shards | Part, mesh: Mesh, *, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens [N, W] and mask of all captions of a split, in the split's order.

    `own` are those of the videos that this host has read in batches of `batch_size`.
    """
    hosts = jax.process_count()
    if hosts == 1:
        return own
    counts = np.asarray(shards.captions_per_video)
    ends = np.cumsum(counts)
    places = []  # for each host: where its captions stand among all
    for host in range(hosts):
        rows = row_sharding.own(batch_size, mesh, host)
        videos = own_videos(len(counts), batch_size=batch_size, rows=rows)
        ranges = [np.arange(ends[i] - counts[i], ends[i], dtype=np.int32) for i in videos]
        places.append(np.concatenate([*ranges, np.zeros(0, np.int32)]))
    most = row_sharding.padded(hosts * max(map(len, places)), mesh) // hosts
    mine = {"place": row_sharding.fill(places[jax.process_index()], most, -1)}
    mine |= {
        name: row_sharding.fill(x, most) for name, x in zip(("token", "mask"), own, strict=True)
    }
    found = row_sharding.fetch(sharding.to_global(mine, mesh), mesh)
    order = np.argsort(found["place"], kind="stable")[np.count_nonzero(found["place"] < 0) :]
    return found["token"][order], found["mask"][order]
