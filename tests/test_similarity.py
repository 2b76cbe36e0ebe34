"""AOSM and the aggregations beside it agree with the original's order of operations and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xclip_jax.models import similarity


def softmax(x, axis):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def reference_frame_word(s, p):
    """X-CLIP's own order of permutes and matrix products, for s [T, W, V, F]."""
    per_frame = softmax(s / 0.01, 1).transpose(0, 2, 3, 1) @ p["word"]
    per_frame = (per_frame.transpose(0, 3, 1, 2) * s).sum(1)  # [T, V, F]
    per_word = ((softmax(s / 0.01, 3) @ p["frame"]) * s).sum(3)  # [T, W, V]
    a = ((softmax(per_frame / 0.01, 2) @ p["frame2"]) * per_frame).sum(2)
    b = softmax(per_word / 0.01, 1).transpose(0, 2, 1) @ p["word2"]
    return (a + (b.transpose(0, 2, 1) * per_word).sum(1)) / 2


@pytest.mark.parametrize("texts, words, videos, frames", [(3, 5, 4, 2), (1, 1, 1, 1)])
def test_frame_word_matches_the_original(texts, words, videos, frames):
    rng = np.random.default_rng(0)
    word = rng.normal(size=(texts, words, 6))
    frame = rng.normal(size=(videos, frames, 6))
    word /= np.linalg.norm(word, axis=-1, keepdims=True)
    frame /= np.linalg.norm(frame, axis=-1, keepdims=True)
    sizes = {"word": words, "word2": words, "frame": frames, "frame2": frames}
    p = {name: np.eye(n) + 0.2 * rng.normal(size=(n, n)) for name, n in sizes.items()}

    def over(name):
        mixing = jnp.asarray(p[name], jnp.float32)
        return lambda scores, axis: similarity.attend(scores / 0.01, axis, mixing=mixing) * 0.01

    got = jax.jit(
        lambda word, frame: similarity.frame_word(
            jnp.moveaxis(word, -1, 0),
            frame,
            over_words=over("word"),
            over_frames=over("frame"),
            then_words=over("word2"),
            then_frames=over("frame2"),
        )
    )(word.astype(np.float32), frame.astype(np.float32))

    expected = reference_frame_word(np.einsum("twe,vfe->twvf", word, frame), p).T
    # A float32 similarity is off by 1e-7, and the softmax at 0.01 makes a hundred times that of it.
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_a_matrix_matches_loops(axis, masked):
    rng = np.random.default_rng(axis)
    scores = rng.uniform(-0.05, 0.05, (4, 3, 5)).astype(np.float32)
    n = scores.shape[axis]
    mixing = rng.normal(size=(n, n)).astype(np.float32)
    valid = rng.random(scores.shape) < 0.6 if masked else np.ones(scores.shape, bool)

    got = similarity.attend(
        jnp.asarray(scores / 0.02),
        axis,
        mixing=jnp.asarray(mixing),
        valid=jnp.asarray(valid) if masked else None,
    )
    got = 0.02 * got

    rows = np.moveaxis(scores, axis, -1)
    for place in np.ndindex(rows.shape[:-1]):
        row, on = rows[place], np.moveaxis(valid, axis, -1)[place]
        weights = np.array([np.exp(row[i] / 0.02) if on[i] else 0 for i in range(n)])
        weights = weights / weights.sum() if on.any() else weights
        expected = 0.0
        for j in range(n):
            expected += on[j] * row[j] * sum(weights[i] * mixing[i, j] for i in range(n))
        np.testing.assert_allclose(got[place], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["attend", "mean", "maximum"])
def test_what_a_mask_leaves_out_might_as_well_not_be_there(kind):
    aggregate = getattr(similarity, kind)
    scores = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 5, 3)), jnp.float32)
    valid = jnp.array([True, False, True, True, False])[:, None]

    got = aggregate(scores, 1, valid=valid)

    np.testing.assert_allclose(got, aggregate(scores[:, jnp.array([0, 2, 3])], 1), atol=1e-6)


@pytest.mark.parametrize("kind", ["attend", "mean", "maximum"])
def test_nothing_valid_gives_zero_and_a_finite_gradient(kind):
    aggregate = getattr(similarity, kind)
    scores = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 5)), jnp.float32)
    valid = jnp.array([[True] * 5, [False] * 5])

    value, gradient = jax.value_and_grad(lambda s: aggregate(s, 1, valid=valid).sum())(scores)
    alone = aggregate(scores, 1, valid=valid)

    assert alone[1] == 0 and value == alone[0]
    assert np.isfinite(gradient).all() and not gradient[1].any()


@pytest.mark.parametrize("kind, oracle", [("mean", np.mean), ("maximum", np.max)])
def test_plain_aggregations_match_numpy(kind, oracle):
    scores = np.random.default_rng(0).uniform(-1, -0.2, (2, 5, 3)).astype(np.float32)
    valid = np.array([[True, True, False], [False, True, True]])[:, None, :]

    got = getattr(similarity, kind)(jnp.asarray(scores), 2)
    masked = getattr(similarity, kind)(jnp.asarray(scores), 2, valid=jnp.asarray(valid))

    np.testing.assert_allclose(got, oracle(scores, 2), rtol=1e-6)
    for i, j in np.ndindex(2, 5):
        np.testing.assert_allclose(masked[i, j], oracle(scores[i, j][valid[i, 0]]), rtol=1e-6)


def test_another_number_of_words_than_the_matrix_has_is_refused():
    with pytest.raises(ValueError, match=r"5 words or frames .* built for 4: set data.max_words"):
        similarity.attend(jnp.zeros((2, 5, 3)), 1, mixing=jnp.eye(4))
