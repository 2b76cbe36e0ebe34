"""The objective is the mean of both directions' cross entropies (SPEC 3.4)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xclip_jax import losses


def test_the_loss_is_the_mean_of_both_directions_by_loops():
    scores = np.random.default_rng(0).normal(size=(5, 5)) * 3

    got = losses.symmetric(jnp.asarray(scores, jnp.float32))

    total = 0.0
    for i in range(5):
        total -= math.log(math.exp(scores[i, i]) / sum(math.exp(s) for s in scores[i]))
        total -= math.log(math.exp(scores[i, i]) / sum(math.exp(s) for s in scores[:, i]))
    assert float(got) == pytest.approx(total / 10, rel=1e-5)


def test_cross_entropy_goes_along_rows():
    scores = jnp.array([[0.0, 0.0], [50.0, 0.0]])

    assert float(losses.cross_entropy(scores)) == pytest.approx((math.log(2) + 50) / 2, rel=1e-6)
    assert float(losses.cross_entropy(scores.T)) == pytest.approx((50 + math.log(2)) / 2, rel=1e-6)
    lopsided = jnp.array([[0.0, 3.0], [0.0, 0.0]])
    first = (math.log(1 + math.exp(3)) + math.log(2)) / 2
    assert float(losses.cross_entropy(lopsided)) == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_equal_scores_cost_the_logarithm_of_the_batch(n):
    assert float(losses.symmetric(jnp.full((n, n), 3.0))) == pytest.approx(math.log(n), abs=1e-6)


def test_huge_scores_neither_overflow_nor_lose_their_gradient():
    scores = jnp.array([[1e4, -1e4, 0.0], [0.0, 1e4, 1e4], [0.0, 0.0, -1e4]])

    loss, gradient = jax.value_and_grad(losses.symmetric)(scores)

    rows, columns = [0, math.log(2), 1e4 + math.log(2)], [0, 0, 2e4]
    assert float(loss) == pytest.approx(sum(rows + columns) / 6, rel=1e-6)
    assert np.isfinite(gradient).all() and gradient[2, 2] < 0


def test_narrow_scores_are_summed_in_float32():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)), jnp.bfloat16)

    got = losses.symmetric(scores)

    assert got.dtype == jnp.float32
    assert float(got) == float(losses.symmetric(scores.astype(jnp.float32)))


def test_texts_of_the_same_video_are_no_negatives():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(6, 3)) * 3
    video_of_column = [4, 9, 4]  # the first and the last are one video, met by chance
    video_of_text = [4, 4, 9, 9, 4, 4]
    same = np.array([[a == b for b in video_of_column] for a in video_of_text])

    got = losses.symmetric(jnp.asarray(scores, jnp.float32), jnp.asarray(same))

    total = 0.0
    for text in range(6):
        column = text // 2
        right = math.exp(scores[text, column])
        others = [j for j in range(3) if video_of_column[j] != video_of_text[text]]
        total -= math.log(right / (right + sum(math.exp(scores[text, j]) for j in others)))
        others = [i for i in range(6) if video_of_text[i] != video_of_column[column]]
        total -= math.log(right / (right + sum(math.exp(scores[i, column]) for i in others)))
    assert float(got) == pytest.approx(total / 12, rel=1e-5)


def test_where_no_video_comes_twice_it_is_the_same_loss():
    scores = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)), jnp.float32)

    plain = jax.value_and_grad(losses.symmetric)(scores)
    known = jax.value_and_grad(losses.symmetric)(scores, jnp.eye(5, dtype=bool))

    for one, other in zip(plain, known, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_batch_of_one_video_has_a_loss_of_zero_and_a_gradient():
    loss, gradient = jax.value_and_grad(losses.symmetric)(jnp.ones((3, 1)), jnp.ones((3, 1), bool))

    assert loss == 0 and not np.any(gradient)
