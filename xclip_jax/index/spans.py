"""Moments in an index: the parts of the best videos that fit a text best."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from xclip_jax import clip_features, moments
from xclip_jax.index import query, store


class Moment(NamedTuple):
    """A part of a video, in seconds from its first frame, and the model's score of it alone."""

    path: str
    start: float
    end: float
    score: float
    metadata: dict


def find(
    searcher: query.Searcher, queries: Sequence[str], *, k: int, **options
) -> list[list[Moment]]:
    """Returns for each text the `k` best parts, best first, of the `k` videos that `query.search`
    finds for it; `options` are of that.

    The index must have been made with `moment_frames`, ValueError otherwise, and the model must be
    whole: padding is a frame that the image tower sees.
    """
    index, trained, encoders = searcher
    store.check_moments(index)
    text = query.encode(searcher, queries)
    blank = clip_features.blank(trained, encoders)
    windows: dict[str, moments.Windows] = {}

    found = []
    for i, answers in enumerate(query.search(searcher, text, k=k, **options)):
        row = jax.tree.map(lambda x, i=i: x[i : i + 1], text)
        parts = []
        for hit in answers.hits:
            if hit.path not in windows:
                windows[hit.path] = windows_of(searcher, hit.path, blank=blank)
            [spans] = moments.rank(encoders, trained.params, row, windows[hit.path], k=k)
            parts += [Moment(hit.path, *span, hit.metadata) for span in spans]
        found.append(sorted(parts, key=lambda part: (-part.score, part.path, part.start))[:k])
    return found


def windows_of(searcher: query.Searcher, path: str, *, blank: np.ndarray) -> moments.Windows:
    """Returns the windows over a video of the index; `blank` is `clip_features.blank`.

    Raises ValueError where the index does not keep its frames, or does not have it.
    """
    index, trained, encoders = searcher
    frames, times, duration = store.moment_frames(index, path)
    return moments.encode(
        encoders,
        trained.params,
        frames,
        times,
        blank=blank,
        max_frames=trained.intake.max_frames,
        duration=duration,
    )
