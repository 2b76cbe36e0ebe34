"""Dual softmax, a post-processing of a whole evaluation (CAMoE, Cheng et al., arXiv 2109.04290).

Each score is multiplied by its softmax over all queries of the test set: a video that many queries
like counts less for each of them. So every answer depends on the other queries, which a search does
not have: such metrics are not to be compared with a model's own.
"""

import numpy as np

from xclip_jax import metrics

NAME = "dual_softmax"
PROTOCOL = f"none, but for the rows ({NAME}), which look at all queries at once"


def retrieval(
    scores: np.ndarray, captions_per_video: np.ndarray, *, ties: str = "average"
) -> dict[str, float]:
    """Returns `metrics.retrieval` after dual softmax, `dual_softmax/t2v/r1` and so on.

    `scores` [T, V] are the model's, after its logit scale, which the method's temperature is. Texts
    ask in one direction and videos in the other, so the softmax is over texts and over videos.
    """
    found = {}
    for way, queries in (("t2v", 0), ("v2t", 1)):
        revised = scores * _softmax(scores, queries)
        both = metrics.retrieval(revised, captions_per_video, ties=ties)
        found |= {f"{NAME}/{key}": both[key] for key in both if key.startswith(f"{way}/")}
    return found


def _softmax(scores: np.ndarray, axis: int) -> np.ndarray:
    # In float64 no score that is within 700 of the highest becomes zero, and so a tie.
    weights = np.exp(scores.astype(np.float64) - scores.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)
