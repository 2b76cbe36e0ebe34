"""Dual softmax against the definition, one score at a time."""

import math

import numpy as np
import pytest

from xclip_jax import dual_softmax, metrics

COUNTS = np.array([1, 3, 2, 1, 2])


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    own = np.repeat(np.arange(5), COUNTS)
    scores = rng.normal(size=(9, 5)) * 3
    scores[np.arange(9), own] += 2
    scores[:, 3] += 4  # a hub: nearly every text's first answer
    return scores.astype(np.float32)


def test_each_score_is_weighed_by_its_share_among_all_queries(scores):
    texts, videos = scores.shape
    for_texts, for_videos = np.zeros((2, texts, videos))
    for t in range(texts):
        for v in range(videos):
            share = math.exp(scores[t, v])
            for_texts[t, v] = scores[t, v] * share / sum(math.exp(x) for x in scores[:, v])
            for_videos[t, v] = scores[t, v] * share / sum(math.exp(x) for x in scores[t])

    found = dual_softmax.retrieval(scores, COUNTS)

    own, other = metrics.retrieval(for_texts, COUNTS), metrics.retrieval(for_videos, COUNTS)
    expected = {k: v for k, v in own.items() if k[:3] == "t2v"}
    expected |= {k: v for k, v in other.items() if k[:3] == "v2t"}
    assert found == {f"dual_softmax/{k}": pytest.approx(v) for k, v in expected.items()}


def test_a_hub_no_longer_wins_every_query(scores):
    plain = metrics.retrieval(scores, COUNTS)

    assert dual_softmax.retrieval(scores, COUNTS)["dual_softmax/t2v/r1"] > plain["t2v/r1"]


def test_large_scores_do_not_overflow_or_tie():
    scores = np.array([[300.0, 100], [90, 290], [10, 20]], np.float32)

    found = dual_softmax.retrieval(scores, np.array([1, 2]))

    assert found["dual_softmax/t2v/mean_rank"] == 1
