"""From text and video features to a [T, V] score matrix at four granularities (SPEC 3.3).

A fine-grained comparison gives many similarities for one (text, video) pair. AOSM, attention over
the similarity matrix, sums them weighted by a sharp softmax of themselves: close to a maximum, but
every one takes part. Plain means and maxima, the paper's ablations, stand beside it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from xclip_jax import sharding

TEMPERATURE = 0.01  # of every softmax over similarities (paper, table of tau)
CONTRASTS = ("video_sentence", "video_word", "sentence_frame", "frame_word")
AGGREGATIONS = ("aosm", "mean_mean", "mean_max", "max_mean", "max_max")
# Floats of the largest tensor of a tile on one device in training, 64 MB; about six of its size
# are alive on the way back.
TRAINING_FLOATS = 2**24
OUT = -1e9  # softmax logit of what a mask leaves out; finite, so that an empty row is not NaN


class Text(NamedTuple):
    """Features of T texts."""

    sentence: Float[Array, "T E"]
    words: Float[Array, "T W E"]
    mask: Bool[Array, "T W"]


class Video(NamedTuple):
    """Features of V videos."""

    video: Float[Array, "V E"]
    frames: Float[Array, "V F E"]
    mask: Bool[Array, "V F"]


def by_columns(
    compare: Callable, video, columns: int | None, *, rows: tuple[int, ...]
) -> Float[Array, "... V"]:
    """Returns `compare(video)`, the scores [*rows, V], computed for `columns` videos at a time.

    `video` is anything whose arrays have the videos on their leading axis; `compare` takes part of
    it. Without `columns`, or with as many as there are videos, all are compared at once. Columns
    that divide them are what a gradient should be taken of: it is made tile by tile too.
    """
    videos = jax.tree.leaves(video)[0].shape[0]
    if columns is None or columns >= videos:
        return compare(video)
    if videos % columns == 0:
        tiles = jax.tree.map(lambda x: x.reshape(-1, columns, *x.shape[1:]), video)
        scores = jax.lax.map(compare, tiles)
        return jnp.moveaxis(scores, 0, -2).reshape(*rows, videos)

    def add(i, scores):
        start = jnp.minimum(i * columns, videos - columns)  # the last two tiles may overlap
        tile = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, columns), video)
        return jax.lax.dynamic_update_slice_in_dim(scores, compare(tile), start, axis=-1)

    scores = jnp.zeros((*rows, videos), jnp.float32)
    return jax.lax.fori_loop(0, -(-videos // columns), add, scores)


def training_columns(texts: int, videos: int, floats: int) -> int | None:
    """Returns how many videos to compare at a time in training, None for all of them: the largest
    divisor for which a tile's largest tensor, `floats` a pair, is of a size that is easily had.

    Each device compares its share of the texts.
    """
    most = max(1, TRAINING_FLOATS // (sharding.share(texts) * floats))
    if most >= videos:
        return None
    return max(columns for columns in range(1, most + 1) if videos % columns == 0)


def attend(
    scores: Float[Array, "..."],
    axis: int,
    *,
    mixing: Float[Array, "M M"] | None = None,
    valid: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Aggregates one axis of a similarity tensor by attention over its own values (AOSM).

    Args:
      scores: similarities in units of the temperature, words or frames on `axis`; so is the result.
        Features divided by the temperature once spare a division of every score.
      mixing: a learned matrix applied to the attention weights, as in the released code; the
        paper's equations have none. After training the weights may be negative and need not
        sum to one.
      valid: broadcasts to `scores`; what is not valid gets no weight and counts as zero.
    """
    if mixing is not None and scores.shape[axis] != len(mixing):
        raise ValueError(
            f"{scores.shape[axis]} words or frames to aggregate, but this model was built for"
            f" {len(mixing)}: set data.max_words and data.max_frames to the model's values."
        )
    logits = scores
    if valid is not None:
        scores = jnp.where(valid, scores, 0)
        logits = jnp.where(valid, logits, OUT)
    # The softmax's division waits for the sum: the mixing is linear, so one division does.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis, keepdims=True)))
    total = weights.sum(axis)
    if mixing is not None:
        weights = _mix(weights, mixing, axis)
    return jnp.sum(weights * scores, axis=axis) / total


def _mix(weights: Float[Array, "..."], mixing: Float[Array, "M M"], axis: int):
    """Returns the sum over `axis` of weights[..., i, ...] * mixing[i, j], with j on that axis."""
    if axis == weights.ndim - 1:
        return weights @ mixing
    # One product for each index of the axes before: nothing is transposed.
    *before, size = weights.shape[: axis + 1]
    matrices = jnp.broadcast_to(mixing.T, (*before, size, size))
    return (matrices @ weights.reshape(*before, size, -1)).reshape(weights.shape)


def mean(scores: Float[Array, "..."], axis: int, *, valid=None) -> Float[Array, "..."]:
    """Returns the mean of one axis over what is valid; zero where nothing is."""
    if valid is None:
        return scores.mean(axis)
    valid = jnp.broadcast_to(valid, scores.shape)
    return jnp.where(valid, scores, 0).sum(axis) / jnp.maximum(valid.sum(axis), 1)


def maximum(scores: Float[Array, "..."], axis: int, *, valid=None) -> Float[Array, "..."]:
    """Returns the maximum of one axis over what is valid; zero where nothing is."""
    if valid is None:
        return scores.max(axis)
    best = jnp.where(valid, scores, -jnp.inf).max(axis)
    return jnp.where(jnp.isfinite(best), best, 0)


# The comparisons below keep videos first and words last, and take the words with their features
# first: so every product has long rows, and on a CPU nothing is transposed between them.


def video_sentence(
    sentence: Float[Array, "T E"], video: Float[Array, "V E"]
) -> Float[Array, "V T"]:
    """Returns the cosine of each sentence and each video."""
    return video @ sentence.T


def video_word(words: Float[Array, "E T W"], video: Float[Array, "V E"], aggregate):
    """Returns [V, T]: the words of each text compared with each video, aggregated."""
    return aggregate(jnp.einsum("ve,etw->vtw", video, words), 2)


def sentence_frame(sentence: Float[Array, "T E"], frames: Float[Array, "V F E"], aggregate):
    """Returns [V, T]: each sentence compared with the frames of each video, aggregated."""
    return aggregate(jnp.einsum("vfe,te->vft", frames, sentence), 1)


def frame_word(
    words: Float[Array, "E T W"],
    frames: Float[Array, "V F E"],
    *,
    over_words,
    over_frames,
    then_words,
    then_frames,
) -> Float[Array, "V T"]:
    """Returns the words of each text compared with the frames of each video, aggregated twice.

    Once over frames and then over words, once over words and then over frames, and their mean;
    the four functions take (scores, axis). The [V, F, T, W] tensor is what bounds a tile's size.
    """
    scores = jnp.einsum("vfe,etw->vftw", frames, words)
    by_word = then_words(over_frames(scores, 1), 2)
    by_frame = then_frames(over_words(scores, 3), 1)
    return (by_word + by_frame) / 2
