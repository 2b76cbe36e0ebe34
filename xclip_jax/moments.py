"""When in a video is what a text says: windows over its frames, each scored as a clip of its own.

Windows have 2, 4, 8, ... frames and all of them, a quarter of their length apart. What a model
makes of a window depends on the video alone, so it is computed once for any number of texts. A
window of more frames than the model takes gives as many as that, spread evenly, as a long clip.
"""

import math
from typing import NamedTuple

import numpy as np

from xclip_jax import few_shapes
from xclip_jax.evaluate import Encoders
from xclip_jax.frames import choose

OVERLAP = 0.5  # intersection over union from which two spans tell of one moment
BATCH = 256  # windows encoded at a time


class Span(NamedTuple):
    """A part of a video, in seconds from its first frame, and how well it fits a text."""

    start: float
    end: float
    score: float


class Windows(NamedTuple):
    """The windows of one video: float32 [N, 2] seconds, and their features, N rows of the
    NamedTuple that the model's `encode_video` returns."""

    seconds: np.ndarray
    features: tuple


def windows(count: int) -> list[tuple[int, int]]:
    """Returns the windows over `count` frames as (first, one past the last), short ones first."""
    found, length = [], 2
    while length < count:
        starts = range(0, count - length, max(length // 4, 1))
        found += [(start, start + length) for start in (*starts, count - length)]
        length *= 2
    return [*found, (0, count)]


def encode(
    encoders: Encoders,
    params: dict,
    frames: np.ndarray,
    times: np.ndarray,
    *,
    blank: np.ndarray,
    max_frames: int,
    duration: float = math.inf,
) -> Windows:
    """Returns the windows of a video.

    Args:
      frames: float32 [F, E], CLIP's raw features of frames in time's order, one or more.
      times: float32 [F], their seconds, ascending.
      blank: float32 [E], the feature of padding, `clip_features.blank`.
      max_frames: how many frames the model takes.
      duration: of the video in seconds, at which the last windows end at the latest.
    """
    if len(frames) != len(times) or not len(frames):
        raise ValueError(f"{len(frames)} frames with {len(times)} times: give as many, 1 or more.")
    found = windows(len(frames))
    taken = [first + choose(last - first, max_frames) for first, last in found]
    rows = np.broadcast_to(blank, (len(found), max_frames, len(blank))).astype(np.float32)
    for row, places in zip(rows, taken, strict=True):
        row[: len(places)] = frames[places]
    mask = np.arange(max_frames) < np.array([len(places) for places in taken])[:, None]
    features = few_shapes.in_batches(
        lambda *batch: encoders.gathered(params, *batch), (rows, mask), BATCH, encoders.mesh
    )
    # A frame lasts until the next one; the last as long as most do, or until the video ends.
    gap = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    ends = np.append(times[1:], max(times[-1], min(times[-1] + gap, duration)))
    seconds = [(times[first], ends[last - 1]) for first, last in found]
    return Windows(np.array(seconds, np.float32), features)


def rank(encoders: Encoders, params: dict, text, found: Windows, *, k: int) -> list[list[Span]]:
    """Returns for each text the `k` spans that fit it best, best first, no two of one moment.

    `text` are the features of T texts, as the model's `encode_text` returns them.
    """
    scores = few_shapes.score(encoders, params, text, found.features, progress=False)
    return [_best(row, found.seconds, k) for row in scores]


def _best(scores: np.ndarray, seconds: np.ndarray, k: int) -> list[Span]:
    """Takes the best window, leaves out those of the same moment, and so on."""
    start, end = seconds.T
    left = np.ones(len(scores), bool)
    spans = []
    for i in np.argsort(-scores, kind="stable"):
        if len(spans) == k:
            break
        if not left[i]:
            continue
        spans.append(Span(float(start[i]), float(end[i]), float(scores[i])))
        both = np.maximum(np.minimum(end, end[i]) - np.maximum(start, start[i]), 0)
        either = (end - start) + (end[i] - start[i]) - both
        left &= both < OVERLAP * either
        left[i] = False
    return spans
