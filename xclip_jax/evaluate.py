"""Retrieval scores of a model on a split: each video encoded once, scores in bounded tiles."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from tqdm import tqdm

from xclip_jax import gather, metrics, scoring, sharding
from xclip_jax import input as pipeline
from xclip_jax.holdout import Part
from xclip_jax.input import Intake
from xclip_jax.models.similarity import Text, Video
from xclip_jax.parallel import row_sharding
from xclip_jax.records import Shards
from xclip_jax.tokenizer import Tokenizer


class Encoders(NamedTuple):
    """The three verbs of a model, jitted, as functions of its parameters.

    `frames` and `gathered` are `video` in two steps: CLIP's raw features of frames, and the
    features of videos of such frames. `pair_floats(params, words, frames)` says how much memory a
    score takes. The devices of `mesh` share the rows that a verb is given, as many each, and so
    they do its result's; `row_sharding.compute` calls a verb so. `similarity` shares out the texts
    and takes the videos whole.
    """

    text: Callable
    video: Callable
    similarity: Callable
    pair_floats: Callable
    frames: Callable
    gathered: Callable
    mesh: Mesh


def make_encoders(graphdef, mesh: Mesh | None = None) -> Encoders:
    """Returns the jitted verbs; make them once, for each has its own cache of compilations.

    The mesh is that of this process's own devices unless given.
    """
    mesh = sharding.local_mesh() if mesh is None else mesh

    def verb(of: Callable, **options) -> Callable:
        """Returns `of(model, ...)` as a jitted function of parameters, with sharded rows."""

        @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, sharding.BATCH), **options)
        def call(params, *rows, **columns):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return of(nnx.merge(graphdef, params), *rows, **columns)

        return call

    text = verb(lambda model, *rows: model.encode_text(*rows))
    video = verb(lambda model, *rows: model.encode_video(*rows))
    frames = verb(lambda model, *rows: model.clip.encode_frames(*rows))
    gathered = verb(lambda model, *rows: model.encode_frames(*rows))
    similarity = verb(_score, static_argnames="columns")
    known = {}

    def pair_floats(params, words: int, count: int) -> int:
        if (words, count) not in known:  # merging takes longer than scoring a hundred videos
            known[words, count] = nnx.merge(graphdef, params).pair_floats(words, count)
        return known[words, count]

    return Encoders(text, video, similarity, pair_floats, frames, gathered, mesh)


def _score(model, text, videos, *, columns: int) -> jax.Array:
    with jax.default_matmul_precision("highest"):  # whatever the towers are computed in
        return model.similarity(text, videos, columns=columns)


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
    for i in range(0, len(tokens), batch_size):
        batch = (tokens[i : i + batch_size], mask[i : i + batch_size])
        yield _encode(encoders, encoders.text, params, batch, batch_size)


def encode_videos(encoders: Encoders, params, batches, *, batch_size: int) -> Video:
    """Returns the features of all videos as NumPy arrays; `batches` yields (pixels, mask)."""
    return scoring.join(
        [_encode(encoders, encoders.video, params, batch, batch_size) for batch in batches]
    )


def _encode(encoders: Encoders, encode: Callable, params, batch: tuple, batch_size: int):
    """Pads a batch, the same on all hosts, so that one compilation serves all, and cuts the
    result."""
    full = [row_sharding.fill(x, batch_size) for x in batch]
    found = row_sharding.compute(lambda *rows: encode(params, *rows), encoders.mesh, *full)
    return jax.tree.map(lambda x: x[: len(batch[0])], found)


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

    With several hosts, each reads its own videos: the captions are theirs, the features are of all.
    `between` is called between batches.
    """
    captions: list[str] = []
    parts: list[Video] = []
    mesh = encoders.mesh
    batch_size = row_sharding.padded(batch_size, mesh)
    rows = row_sharding.own(batch_size, mesh)
    stream = pipeline.videos(shards, intake, batch_size=batch_size, rows=rows)
    starts = range(0, len(shards), batch_size)
    bar = tqdm(starts, "encoding", unit="batch", disable=not progress, leave=False)
    for _, (numbers, pixels, mask, texts) in zip(bar, stream, strict=True):
        between()
        captions.extend(texts)
        # Each row goes with its video's number, -1 for padding, and is put back by that.
        own = {"number": row_sharding.fill(numbers, len(rows), -1)}
        own |= {"pixels": row_sharding.fill(pixels, len(rows))}
        own |= {"mask": row_sharding.fill(mask, len(rows))}
        batch = sharding.to_global(own, mesh)
        encoded = encoders.video(params, batch["pixels"], batch["mask"])
        number, features = row_sharding.fetch((batch["number"], encoded), mesh)
        order = np.argsort(number, kind="stable")[np.count_nonzero(number < 0) :]
        parts.append(jax.tree.map(lambda x, order=order: x[order], features))
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
    batch_size, words = row_sharding.padded(batch_size, encoders.mesh), intake.max_words
    options = {"batch_size": batch_size, "progress": progress, "between": between}
    tokens, videos = [], []
    for split in [shards] if twins is None else [shards, twins]:
        captions, features = encode_split(encoders, params, split, intake, **options)
        own = tokenizer(captions, words)
        tokens.append(gather.all_tokens(own, split, encoders.mesh, batch_size=batch_size))
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
