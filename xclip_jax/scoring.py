"""The score matrix of a split in tiles of bounded memory, from features that may come in parts.

`encoders` are those of `evaluate.make_encoders`.
"""

import math
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from tqdm import tqdm

from xclip_jax import sharding
from xclip_jax.models.similarity import Text, Video
from xclip_jax.parallel import row_sharding

# Floats of a tile's largest tensor (X-CLIP's is [V, F, T, W]), of which a handful are alive at
# once. On a CPU a tile should stay near the caches (2^19 floats are 2 MB); an accelerator wants
# long matrix products.
TILE_ELEMENTS = {"cpu": 2**19}
TILE_ELEMENTS_ACCELERATOR = 2**26


def score(encoders, params, text: Text, video: Video, *, progress: bool) -> np.ndarray:
    """Returns the float32 [T, V] score matrix, computed in tiles of bounded memory."""
    return score_stream(encoders, params, [text], video, texts=text.mask.shape, progress=progress)


def score_stream(
    encoders,
    params,
    parts: Iterable[Text],
    video: Video,
    *,
    texts: tuple[int, int],
    progress: bool,
) -> np.ndarray:
    """Returns the same of texts that come in parts of any size, each scored and forgotten: the
    words of MSR-VTT's 59,800 test captions would take 4 GB.

    `texts` says how many there are, and of how many words. The devices share the texts of a tile.
    """
    count, words = texts
    videos, frames = video.mask.shape
    mesh, elements = encoders.mesh, encoders.pair_floats(params, words, frames)
    rows, columns = tile_shape(count, videos, elements, devices=mesh.size)
    video = sharding.replicate(video, mesh)

    def compare(part: Text) -> jax.Array:
        return encoders.similarity(params, part, video, columns=columns)

    scores = np.empty((count, videos), np.float32)
    done = 0
    with tqdm(total=count, desc="scoring", unit="text", disable=not progress, leave=False) as bar:
        for part in _in_rows(parts, rows):
            size = len(part.mask)
            part = jax.tree.map(lambda x: row_sharding.fill(x, rows), part)  # one compilation
            scores[done : done + size] = row_sharding.compute(compare, mesh, part)[:size]
            done += size
            bar.update(size)
    return scores


def _in_rows(parts: Iterable[Text], rows: int) -> Iterator[Text]:
    """Yields the texts of all parts in order, `rows` of them at a time."""
    held, count = [], 0
    for part in parts:
        held, count = [*held, part], count + len(part.mask)
        if count < rows:
            continue
        joined = join(held)
        whole = count - count % rows
        for i in range(0, whole, rows):
            yield jax.tree.map(lambda x, i=i: x[i : i + rows], joined)
        held, count = [jax.tree.map(lambda x, i=whole: x[i:], joined)], count - whole
    if count:
        yield join(held)


def join(parts: list):
    """Returns features one after another; a single part is not copied."""
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def tile_shape(
    texts: int, videos: int, elements: int, platform: str | None = None, *, devices: int = 1
) -> tuple[int, int]:
    """Returns how many texts and videos make a tile when each pair takes `elements` floats.

    `platform` is the device's, JAX's default unless given. Several devices share the texts of a
    tile evenly, each with a tile's memory of its own.
    """
    budget = TILE_ELEMENTS.get(platform or jax.default_backend(), TILE_ELEMENTS_ACCELERATOR)
    pairs = max(budget // elements, 1)
    columns = _part(videos, math.isqrt(pairs))
    return devices * _part(-(-texts // devices), pairs // columns), columns


def _part(count: int, most: int) -> int:
    """Returns the size of the fewest parts of `count` that hold `most` each, made as even as can
    be: the last one is computed at its full size too."""
    return math.ceil(count / math.ceil(count / most))
