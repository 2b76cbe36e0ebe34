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
