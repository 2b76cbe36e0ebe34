"""Calls of jitted functions with any number of rows, of which only a few sizes are compiled."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from xclip_jax import scoring
from xclip_jax.parallel import row_sharding

STEP = 4  # batches of 4, 16, 64, ... rows
LARGE = 1024  # beyond, a padded count is a multiple of this


def in_batches(call: Callable, arrays: tuple[np.ndarray, ...], most: int, mesh: Mesh):
    """Returns call(*arrays) as NumPy arrays, computed for 4, 16, 64, ..., about `most` rows at a
    time, which the devices of the mesh share; the last rows are filled up to four. `call` gives
    arrays of as many rows."""
    count, done, parts = len(arrays[0]), 0, []
    while done < count:
        size = STEP
        while size * STEP <= min(count - done, most):
            size *= STEP
        batch = [row_sharding.fill(array[done : done + size], size) for array in arrays]
        part = row_sharding.compute(call, mesh, *batch)
        parts.append(jax.tree.map(lambda x, n=count - done: x[:n], part))
        done += size
    return scoring.join(parts)


def score(encoders, params, text, video, *, progress: bool) -> np.ndarray:
    """Returns what `scoring.score` does, float32 [T, V], with both counts padded to a power of two
    or, where they are large, to the next thousand."""
    texts, videos = len(text.mask), len(video.mask)
    text = jax.tree.map(lambda x: row_sharding.fill(x, rounded(texts)), text)
    video = jax.tree.map(lambda x: row_sharding.fill(x, rounded(videos)), video)
    return scoring.score(encoders, params, text, video, progress=progress)[:texts, :videos]


def rounded(count: int) -> int:
    """Returns the size that stands for `count` rows."""
    if count > LARGE:
        return -(-count // LARGE) * LARGE
    return max(STEP, 1 << (count - 1).bit_length())
