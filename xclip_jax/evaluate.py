"""Retrieval scores of a model on a split: each video encoded once, scores in bounded tiles."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from xclip_jax import gather, metrics, scoring, sharding
from xclip_jax import input as pipeline
from xclip_jax.holdout import Part
from xclip_jax.input import Intake
from xclip_jax.models.similarity import Text, Video
from xclip_jax.records import Shards
from xclip_jax.tokenizer import Tokenizer


class Encoders(NamedTuple):
    """The three verbs of a model, jitted, as functions of its parameters.

    `frames` and `gathered` are `video` in two steps: CLIP's raw features of frames, and the
    features of videos of such frames. `pair_floats(params, words, frames)` says how much memory a
    score takes.
    """

    text: Callable
    video: Callable
    similarity: Callable
    pair_floats: Callable
    frames: Callable
    gathered: Callable
    mesh: Mesh | None = None


def make_encoders(graphdef, mesh: Mesh | None = None) -> Encoders:
    """Returns the jitted verbs; make them once, for each has its own cache of compilations.

    With a mesh of several processes each brings its share of a batch, and all get all features.
    """
    if mesh is None or jax.process_count() == 1:
        mesh, jit = None, jax.jit
    else:
        jit = functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))

    @jit
    def text(params, tokens, mask):
        return nnx.merge(graphdef, params).encode_text(tokens, mask)

    @jit
    def video(params, pixels, mask):
        return nnx.merge(graphdef, params).encode_video(pixels, mask)

    @jit
    def frames(params, pixels, mask):
        return nnx.merge(graphdef, params).clip.encode_frames(pixels, mask)

    @jit
    def gathered(params, features, mask):
        return nnx.merge(graphdef, params).encode_frames(features, mask)

    @functools.partial(jit, static_argnames="columns")
    def similarity(params, text, videos, *, columns):
        with jax.default_matmul_precision("highest"):  # whatever the towers are computed in
            return nnx.merge(graphdef, params).similarity(text, videos, columns=columns)

    known = {}

    def pair_floats(params, words: int, count: int) -> int:
        if (words, count) not in known:  # merging takes longer than scoring a hundred videos
            known[words, count] = nnx.merge(graphdef, params).pair_floats(words, count)
        return known[words, count]

    return Encoders(text, video, similarity, pair_floats, frames, gathered, mesh)


def encode_texts(
    encoders: Encoders, params, tokenizer: Tokenizer, texts: list[str], *, max_words, batch_size
) -> Text:
    """Returns the features of all texts as NumPy arrays."""
    return scoring.join(
        list(text_batches(encoders, params, tokenizer, texts, max_words, batch_size=batch_size))
    )


def text_batches(
    encoders: Encoders,
    params,
    tokenizer: Tokenizer,
    texts: list[str],
    max_words: int,
    *,
    batch_size: int,
) -> Iterator[Text]:
    """Yields the features of a batch of the texts after another, as NumPy arrays."""
    yield from token_batches(encoders, params, *tokenizer(texts, max_words), batch_size=batch_size)


def token_batches(
    encoders: Encoders, params, tokens: np.ndarray, mask: np.ndarray, *, batch_size: int
) -> Iterator[Text]:
    """Yields the features of a batch of tokenised texts [N, W] after another, as NumPy arrays."""
    hosts, host = (1, 0) if encoders.mesh is None else (jax.process_count(), jax.process_index())
    local = batch_size // hosts
    for i in range(0, len(tokens), batch_size):
        own = slice(i + host * local, i + (host + 1) * local)
        count = min(batch_size, len(tokens) - i)
        batch = (tokens[own], mask[own])
        yield _encode(encoders, encoders.text, params, batch, batch_size, count)


def encode_videos(encoders: Encoders, params, batches, *, batch_size: int) -> Video:
    """Returns the features of all videos as NumPy arrays; `batches` yields (pixels, mask)."""
    parts = [
        _encode(encoders, encoders.video, params, batch, batch_size, len(batch[0]))
        for batch in batches
    ]
    return scoring.join(parts)


def _encode(encoders: Encoders, encode: Callable, params, batch: tuple, batch_size: int, count):
    """Pads a batch to its full size, so that one compilation serves all, and cuts the result.

    Of several hosts each has its slice, and gets the features of all `count` of the batch.
    """
    if encoders.mesh is None:
        padded = [_fill(x, batch_size) for x in batch]
    else:
        size = batch_size // jax.process_count()
        spread = {str(i): _fill(x, size) for i, x in enumerate(batch)}
        padded = sharding.to_global(spread, encoders.mesh).values()
    return jax.tree.map(lambda x: np.asarray(x)[:count], encode(params, *padded))


def _fill(x: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)])


def encode_split(
    encoders: Encoders,
    params,
    shards: Shards | Part,
    intake: Intake,
    *,
    batch_size: int,
    progress: bool,
    between: Callable[[], None] = lambda: None,
) -> tuple[list[str], Video]:
    """Returns a split's captions, grouped by video, and the features of each video once.

    Of several hosts each reads its own videos: the captions are theirs, the features are of all.
    `between` is called between batches.
    """
    captions: list[str] = []
    parts: list[Video] = []
    stream = pipeline.videos(shards, intake, batch_size=batch_size)
    starts = range(0, len(shards), batch_size)
    bar = tqdm(starts, "encoding", unit="batch", disable=not progress, leave=False)
    for start, (pixels, mask, texts) in zip(bar, stream, strict=True):
        between()
        captions.extend(texts)
        count = min(batch_size, len(shards) - start)
        batch = (pixels, mask)
        parts.append(_encode(encoders, encoders.video, params, batch, batch_size, count))
    return captions, scoring.join(parts)


def run(
    encoders: Encoders,
    params,
    shards: Shards | Part,
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    twins: Shards | None,
    batch_size: int,
    ties: str = "average",
    progress: bool = False,
    between: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Returns the retrieval metrics of a split; with `twins`, those of the reversed clips too.

    `twins` holds for each video of the split the same frames played backwards. Under `twins/`
    stand the metrics with all of them in the gallery, and `twins/accuracy`, the share of captions
    that prefer their own clip: 0.5 for a model blind to time.
    """
    scores = score_split(
        encoders,
        params,
        shards,
        tokenizer,
        intake,
        twins=twins,
        batch_size=batch_size,
        progress=progress,
        between=between,
    )
    return measure(scores, shards, twins, ties=ties)


def score_split(
    encoders: Encoders,
    params,
    shards: Shards | Part,
    tokenizer: Tokenizer,
    intake: Intake,
    *,
    twins: Shards | None,
    batch_size: int,
    progress: bool = False,
    between: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Returns the scores [T, V] of all captions, grouped by video, and all videos of a split; those
    of the twins follow in rows and columns."""
    if encoders.mesh is not None:  # which spreads a batch over all devices
        batch_size = -(-batch_size // encoders.mesh.size) * encoders.mesh.size
    words = intake.max_words
    options = {"batch_size": batch_size, "progress": progress, "between": between}
    tokens, videos = [], []
    for split in [shards] if twins is None else [shards, twins]:
        captions, features = encode_split(encoders, params, split, intake, **options)
        tokens.append(gather.all_tokens(tokenizer, captions, split, words, batch_size=batch_size))
        videos.append(features)

    def texts_of_all() -> Iterator[Text]:
        for part in tokens:
            for features in token_batches(encoders, params, *part, batch_size=batch_size):
                between()
                yield features

    return scoring.score_stream(
        encoders,
        params,
        texts_of_all(),
        scoring.join(videos),
        texts=(sum(len(part[0]) for part in tokens), words),
        progress=progress,
    )


def measure(
    scores: np.ndarray, shards: Shards | Part, twins: Shards | None, *, ties: str = "average"
) -> dict[str, float]:
    """Returns the metrics of what `score_split` returns, as `run` has them."""
    counts = shards.captions_per_video
    if twins is None:
        return metrics.retrieval(scores, counts, ties=ties)
    texts = int(counts.sum())
    own = np.repeat(np.arange(len(counts)), counts)
    gallery = metrics.ranks(scores[:texts], own, ties=ties)
    accuracy = metrics.twin_accuracy(scores, np.concatenate([counts, twins.captions_per_video]))
    return (
        metrics.retrieval(scores[:texts, : len(counts)], counts, ties=ties)
        | {f"twins/{name}": value for name, value in metrics.summarize(gallery, "t2v").items()}
        | {"twins/accuracy": accuracy}
    )
