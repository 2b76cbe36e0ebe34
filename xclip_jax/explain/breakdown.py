"""Why a model gives a text and a video their score: its parts, and the attention behind them.

X-CLIP's score is a mean of up to four comparisons. Each is a sum of similarities weighted by
attention, so every (word, frame) has a share that can be shown, and the shares add up to the score.
The arithmetic is NumPy's, in float64: one pair is too little to compile anything for.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from xclip_jax.models.clip2video import CLIP2Video
from xclip_jax.models.clip4clip import CLIP4Clip
from xclip_jax.models.similarity import CONTRASTS
from xclip_jax.models.xclip import XCLIP


class Part(NamedTuple):
    """One comparison of a text and a video.

    Attributes:
      similarity: its value, before the logit scale.
      weight: of it in the score.
      similarities: what it aggregates, before the scale: of each word [W] (`video_word`), frame [F]
        (`sentence_frame`) or both [W, F] (`frame_word`); a single number [] where there is nothing
        to aggregate.
      attention: the weight of each of those; `similarity` is `sum(attention * similarities)`.
        Learned matrices may make some negative, and their sum other than one.
    """

    similarity: float
    weight: float
    similarities: np.ndarray
    attention: np.ndarray


class Explanation(NamedTuple):
    """A score and what it is made of; padding counts among the W words and F frames.

    Attributes:
      score: as the model's `similarity` has it: after the logit scale.
      scale: what the weighted sum of the parts is multiplied by: `score` is
        `scale * sum(part.weight * part.similarity)`. X-CLIP's weights are all the same.
      parts: by granularity, `models.similarity.CONTRASTS` for X-CLIP; empty where the score has no
        parts.
      absent: in one line, what of this the model does not have; "" where it has all.
    """

    score: float
    scale: float
    parts: dict[str, Part]
    absent: str = ""

    def points(self) -> dict[str, float]:
        """Returns what each part adds to the score; their sum is the score."""
        return {
            name: self.scale * part.weight * part.similarity for name, part in self.parts.items()
        }


def explain(graphdef, params: dict, text, video) -> Explanation:
    """Returns the breakdown of the score of one text and one video.

    `text` and `video` are one row each of what the model's `encode_text` and `encode_video` return:
    for X-CLIP `Text(sentence [E], words [W, E], mask [W])` and `Video(video [E], frames [F, E],
    mask [F])`.
    """
    if np.ndim(text.sentence) != 1 or np.ndim(video.video) != 1:
        raise ValueError(
            f"features of shape {np.shape(text.sentence)} (text) and {np.shape(video.video)}"
            " (video) given: expected one row of each, without the axis of texts or videos."
        )
    model = nnx.merge(graphdef, params)
    if isinstance(model, XCLIP):
        return _xclip(model, *(jax.tree.map(np.asarray, features) for features in (text, video)))
    if isinstance(model, CLIP2Video):
        return _clip2video(model, text, video)
    if isinstance(model, CLIP4Clip):
        scale = _scale(model)
        part = _product(text.sentence, video.video, 1.0)
        return Explanation(
            scale * part.similarity,
            scale,
            {"video_sentence": part},
            absent="CLIP4Clip compares one vector of the text with one of the video: no word and no"
            " frame has a part in the score that could be shown.",
        )
    one = jax.tree.map(lambda x: np.asarray(x)[None], (text, video))
    return Explanation(
        float(_similarity(graphdef)(params, *one)[0, 0]),
        1.0,
        {},
        absent="the cross encoder (head=tightTransf, or aggregation=transformer) reads text and"
        " video as one sequence: its score has no parts, words or frames that could be shown.",
    )


@functools.lru_cache(maxsize=1)
def _similarity(graphdef):
    """Returns a model's score of texts and videos, compiled once for all that are explained."""

    @jax.jit
    def similarity(params, *pair):
        with jax.default_matmul_precision("highest"):  # as in evaluation
            return nnx.merge(graphdef, params).similarity(*pair)

    return similarity


def _clip2video(model: CLIP2Video, text, video) -> Explanation:
    scale, share = _scale(model), model.center_weight if model.centers else 1.0
    parts = {"video_sentence": _product(text.sentence, video.video, share)}
    if model.centers:
        parts["centers"] = _product(text.aligned, video.aligned, 1 - share)
    score = scale * sum(part.weight * part.similarity for part in parts.values())
    absent = (
        "CLIP2Video compares whole texts and videos, and their words and frames as summed up around"
        " centers: no single word or frame has a part that could be shown."
    )
    return Explanation(score, scale, parts, absent=absent)


def _xclip(model: XCLIP, text, video) -> Explanation:
    """Returns SPEC 3.3 for one pair, with the attention written out."""
    sentence, words = _wide(text.sentence), _wide(text.words)
    whole, frames = _wide(video.video), _wide(video.frames)
    word_valid, frame_valid = (
        mask if model.mask_padding else np.ones_like(mask) for mask in (text.mask, video.mask)
    )
    first, second = (
        ("aosm", "aosm") if model.aggregation == "aosm" else model.aggregation.split("_")
    )

    def matrix(name: str) -> np.ndarray | None:
        return _wide(getattr(model, name)[...]) if name in model.matrices else None

    def attention(kind, scores, axis: int, name: str, valid) -> np.ndarray:
        return _weights(kind, scores, axis, matrix(name), valid, temperature=model.temperature)

    found = {}
    if "video_sentence" in model.contrasts:
        mixing = matrix("global_mat_weight")
        query = sentence if mixing is None else sentence @ mixing
        found["video_sentence"] = query @ whole, np.float64(1)
    if "video_word" in model.contrasts:
        scores = words @ whole
        found["video_word"] = (
            scores,
            attention(first, scores, 0, "word_logit_weight", word_valid),
        )
    if "sentence_frame" in model.contrasts:
        scores = frames @ sentence
        found["sentence_frame"] = (
            scores,
            attention(first, scores, 0, "frame_logit_weight", frame_valid),
        )
    if "frame_word" in model.contrasts:
        mixing = matrix("local_mat_weight")
        scores = (words if mixing is None else words @ mixing) @ frames.T
        # Over frames and then words, over words and then frames: in both a product of weights
        # stands before each similarity, and the score takes their mean.
        per_word = attention(first, scores, 1, "frame_mat_weight", frame_valid)
        by_word = (per_word * scores).sum(1)
        of_words = attention(second, by_word, 0, "word_mat_weight2", word_valid)
        per_frame = attention(first, scores, 0, "word_mat_weight", word_valid[:, None])
        by_frame = (per_frame * scores).sum(0)
        of_frames = attention(second, by_frame, 0, "frame_mat_weight2", frame_valid)
        found["frame_word"] = scores, (of_words[:, None] * per_word + of_frames * per_frame) / 2
    parts = {
        name: Part(float((weights * scores).sum()), 1 / len(found), scores, weights)
        for name, (scores, weights) in found.items()
    }
    scale = _scale(model)
    lacking = [name.replace("_", "-") for name in CONTRASTS if name not in parts]
    return Explanation(
        scale * sum(part.weight * part.similarity for part in parts.values()),
        scale,
        parts,
        absent=f"this model was trained without {', '.join(lacking)}." if lacking else "",
    )


def _product(one, other, weight: float) -> Part:
    product = np.dot(_wide(one), _wide(other))
    return Part(float(product), weight, product, np.float64(1))


def _weights(
    kind: str, scores: np.ndarray, axis: int, mixing, valid: np.ndarray, *, temperature: float
) -> np.ndarray:
    """Returns weights of `scores`' shape; the sum over `axis` of both's product is what the model
    aggregates to. What is not valid has weight zero."""
    valid = np.broadcast_to(valid, scores.shape)
    if kind == "mean":
        return valid / np.maximum(valid.sum(axis, keepdims=True), 1)
    masked = np.where(valid, scores, -np.inf)
    if kind == "max":
        best = np.expand_dims(masked.argmax(axis), axis)
        places = np.arange(scores.shape[axis]).reshape([-1] + [1] * (scores.ndim - 1 - axis))
        return np.where(valid & (places == best), 1.0, 0.0)
    peak = masked.max(axis, keepdims=True)
    weights = np.exp((masked - np.where(np.isfinite(peak), peak, 0)) / temperature)
    weights /= np.maximum(weights.sum(axis, keepdims=True), np.finfo(float).tiny)
    if mixing is not None:
        weights = np.moveaxis(np.moveaxis(weights, axis, -1) @ mixing, -1, axis)
    return np.where(valid, weights, 0)


def _scale(model) -> float:
    return float(np.exp(_wide(model.clip.logit_scale[...])))


def _wide(x) -> np.ndarray:
    return np.asarray(x).astype(np.float64)
