"""Calls of jitted functions with any number of rows, of which only a few sizes are compiled."""

from collections.abc import Callable

import jax
import numpy as np

from xclip_jax import scoring

STEP = 4  # batches of 4, 16, 64, ... rows
LARGE = 1024  # beyond, a padded count is a multiple of this


def in_batches(call: Callable, arrays: tuple[np.ndarray, ...], most: int):
    """Returns call(*arrays) as NumPy arrays, computed for 4, 16, 64, ..., about `most` rows at a
    time; the last rows are filled up to four. `call` gives arrays of as many rows."""
    count, done, parts = len(arrays[0]), 0, []
    while done < count:
        size = STEP
        while size * STEP <= min(count - done, most):
            size *= STEP
        batch = [filled(array[done : done + size], size) for array in arrays]
        part = jax.tree.map(lambda x, n=count - done: np.asarray(x)[:n], call(*batch))
        parts.append(part)
        done += size
    return scoring.join(parts)


def score(encoders, params, text, video, *, progress: bool) -> np.ndarray:
    """Returns what `scoring.score` does, float32 [T, V], with both counts padded to a power of two
    or, where they are large, to the next thousand."""
    texts, videos = len(text.mask), len(video.mask)
    text = jax.tree.map(lambda x: filled(x, rounded(texts)), text)
    video = jax.tree.map(lambda x: filled(x, rounded(videos)), video)
    return scoring.score(encoders, params, text, video, progress=progress)[:texts, :videos]


def rounded(count: int) -> int:
    """Returns the size that stands for `count` rows."""
    if count > LARGE:
        return -(-count // LARGE) * LARGE
    return max(STEP, 1 << (count - 1).bit_length())


def filled(x: np.ndarray, size: int) -> np.ndarray:
    """Returns `x` with zeros after its rows, `size` of them in all."""
    if len(x) == size:
        return x
    return np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)])
