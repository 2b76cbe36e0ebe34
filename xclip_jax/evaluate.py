"""Retrieval scores of a model on a split: each video encoded once, scores in bounded tiles."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from xclip_jax import input as pipeline
from xclip_jax import metrics
from xclip_jax.input import Intake
from xclip_jax.models.similarity import Text, Video
from xclip_jax.records import Shards
from xclip_jax.tokenizer import Tokenizer

# Floats of a tile's largest tensor (X-CLIP's is [T, W, V, F]), of which a handful are alive at
# once. On a CPU a tile should stay near the caches (2^19 floats are 2 MB); an accelerator wants
# long matrix products.
TILE_ELEMENTS = {"cpu": 2**19}
TILE_ELEMENTS_ACCELERATOR = 2**26


class Encoders(NamedTuple):
    """The three verbs of a model, jitted, as functions of its parameters.

    `pair_floats(params, words, frames)` says how much memory a score takes.
    """

    text: Callable
    video: Callable
    similarity: Callable
    pair_floats: Callable


def make_encoders(graphdef) -> Encoders:
    """Returns the jitted verbs; make them once, for each has its own cache of compilations."""

    @jax.jit
    def text(params, tokens, mask):
        return nnx.merge(graphdef, params).encode_text(tokens, mask)

    @jax.jit
    def video(params, pixels, mask):
        return nnx.merge(graphdef, params).encode_video(pixels, mask)

    @functools.partial(jax.jit, static_argnames="columns")
    def similarity(params, text, videos, *, columns):
        return nnx.merge(graphdef, params).similarity(text, videos, columns=columns)

    def pair_floats(params, words: int, frames: int) -> int:
        return nnx.merge(graphdef, params).pair_floats(words, frames)

    return Encoders(text, video, similarity, pair_floats)


def encode_texts(
    encoders: Encoders, params, tokenizer: Tokenizer, texts: list[str], *, max_words, batch_size
) -> Text:
    """Returns the features of all texts as NumPy arrays."""
    tokens, mask = tokenizer(texts, max_words)
    batches = [
        _encode(
            encoders.text,
            params,
            (tokens[i : i + batch_size], mask[i : i + batch_size]),
            batch_size,
        )
        for i in range(0, len(texts), batch_size)
    ]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


def encode_videos(encoders: Encoders, params, batches, *, batch_size: int) -> Video:
    """Returns the features of all videos as NumPy arrays; `batches` yields (pixels, mask)."""
    encoded = [_encode(encoders.video, params, batch, batch_size) for batch in batches]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *encoded)


def _encode(encode: Callable, params, batch: tuple, batch_size: int):
    """Pads a batch to its full size, so that one compilation serves all, and cuts the result."""
    count = len(batch[0])
    padded = [
        np.concatenate([x, np.zeros((batch_size - count, *x.shape[1:]), x.dtype)]) for x in batch
    ]
    return jax.tree.map(lambda x: np.asarray(x)[:count], encode(params, *padded))


def score(encoders: Encoders, params, text: Text, video: Video, *, progress: bool) -> np.ndarray:
    """Returns the float32 [T, V] score matrix, computed in tiles of bounded memory."""
    texts, words = text.mask.shape
    videos, frames = video.mask.shape
    rows, columns = tile_shape(texts, videos, encoders.pair_floats(params, words, frames))
    video = jax.tree.map(jnp.asarray, video)
    scores = np.empty((texts, videos), np.float32)
    for i in tqdm(range(0, texts, rows), "scoring", unit="row", disable=not progress, leave=False):
        part = _pad(jax.tree.map(lambda x, i=i: x[i : i + rows], text), rows)
        tiles = encoders.similarity(params, part, video, columns=columns)
        scores[i : i + rows] = np.asarray(tiles)[: texts - i]
    return scores


def tile_shape(texts: int, videos: int, elements: int) -> tuple[int, int]:
    """Returns how many texts and videos make a tile when each pair takes `elements` floats."""
    budget = TILE_ELEMENTS.get(jax.default_backend(), TILE_ELEMENTS_ACCELERATOR)
    pairs = max(budget // elements, 1)
    columns = _part(videos, math.isqrt(pairs))
    return _part(texts, pairs // columns), columns


def _part(count: int, most: int) -> int:
    """Returns the size of the fewest parts of `count` that hold `most` each, made as even as can
    be: the last one is computed at its full size too."""
    return math.ceil(count / math.ceil(count / most))


def _pad(features, size: int):
    """Appends zeros up to a multiple of `size`."""

    def pad(x):
        return np.pad(x, [(0, -len(x) % size)] + [(0, 0)] * (x.ndim - 1))

    return jax.tree.map(pad, features)


def encode_split(
    encoders: Encoders,
    params,
    shards: Shards,
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    batch_size: int,
    progress: bool,
) -> tuple[Text, Video]:
    """Returns the features of a split: its captions, grouped by video, and each video once."""
    captions: list[str] = []

    def batches():
        stream = pipeline.videos(shards, intake, batch_size=batch_size)
        total = -(-len(shards) // batch_size)
        for pixels, mask, texts in tqdm(
            stream, "encoding", total, unit="batch", disable=not progress, leave=False
        ):
            captions.extend(texts)
            yield pixels, mask

    video = encode_videos(encoders, params, batches(), batch_size=batch_size)
    text = encode_texts(
        encoders, params, tokenizer, captions, max_words=intake.max_words, batch_size=batch_size
    )
    return text, video


def run(
    encoders: Encoders,
    params,
    shards: Shards,
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    twins: Shards | None,
    batch_size: int,
    ties: str = "average",
    progress: bool = False,
) -> dict[str, float]:
    """Returns the retrieval metrics of a split; with `twins`, those of the reversed clips too.

    `twins` holds for each video of the split the same frames played backwards. Under `twins/`
    stand the metrics with all of them in the gallery, and `twins/accuracy`, the share of captions
    that prefer their own clip: 0.5 for a model blind to time.
    """
    encode = functools.partial(
        encode_split,
        encoders,
        params,
        tokenizer=tokenizer,
        intake=intake,
        batch_size=batch_size,
        progress=progress,
    )
    counts = shards.captions_per_video
    text, video = encode(shards)
    if twins is None:
        scores = score(encoders, params, text, video, progress=progress)
        return metrics.retrieval(scores, counts, ties=ties)
    both = jax.tree.map(lambda *parts: np.concatenate(parts), (text, video), encode(twins))
    scores = score(encoders, params, *both, progress=progress)
    texts, videos = len(text.mask), len(video.mask)
    own = np.repeat(np.arange(videos), counts)
    gallery = metrics.ranks(scores[:texts], own, ties=ties)
    accuracy = metrics.twin_accuracy(scores, np.concatenate([counts, twins.captions_per_video]))
    return (
        metrics.retrieval(scores[:texts, :videos], counts, ties=ties)
        | {f"twins/{name}": value for name, value in metrics.summarize(gallery, "t2v").items()}
        | {"twins/accuracy": accuracy}
    )
