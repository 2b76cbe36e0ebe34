"""From frame features to a video feature: the three heads, and what padding may not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from xclip_jax.models import temporal
from xclip_jax.models.temporal import create_temporal, normalize, pool

VIDEOS, FRAMES, WIDTH = 3, 5, 128
MASK = np.arange(FRAMES) < np.array([5, 2, 4])[:, None]


def features(seed: int = 0, shape=(VIDEOS, FRAMES, WIDTH)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def head(name: str) -> nnx.Module:
    compute = {"dtype": jnp.float32, "remat": "dots"}
    return tiny.module(
        lambda: create_temporal(name, WIDTH, positions=7, layers=2, **compute, rngs=nnx.Rngs(0))
    )


def test_a_video_is_the_masked_mean_of_its_unit_frames():
    x, mask = features(), MASK.copy()
    mask[0, 1] = False  # a hole between valid frames

    got = pool(jnp.asarray(x), jnp.asarray(mask))

    for v in range(VIDEOS):
        units = [x[v, f] / np.linalg.norm(x[v, f]) for f in range(FRAMES) if mask[v, f]]
        mean = sum(units) / len(units)
        np.testing.assert_allclose(got[v], mean / np.linalg.norm(mean), atol=1e-6)


def test_a_zero_vector_is_normalised_to_zero_with_a_zero_gradient():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])

    got = normalize(x)
    gradient = jax.grad(lambda x: normalize(x).sum())(x)

    np.testing.assert_allclose(got, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(gradient[0], [0.032, -0.024], rtol=1e-5)  # by hand: y^2 - xy, / 125
    np.testing.assert_array_equal(gradient[1], 0)


def test_a_vector_that_is_not_a_number_is_not_hidden_by_normalising():
    assert np.isnan(normalize(jnp.array([[3.0, np.nan]]))).all()


@pytest.mark.parametrize("name", temporal.HEADS)
def test_a_video_without_frames_gives_zero_and_finite_gradients(name):
    graphdef, state = nnx.split(head(name))
    mask = jnp.asarray(MASK).at[1].set(False)
    x = features()
    x[1] = 0  # meanP then has zero vectors to normalise too

    def run(state, x):
        video = pool(nnx.merge(graphdef, state)(x, mask), mask)
        return (video**3).sum(), video

    (_, video), grads = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(
        state, jnp.asarray(x)
    )

    assert not video[1].any()
    np.testing.assert_allclose(np.linalg.norm(video[jnp.array([0, 2])], axis=-1), 1, rtol=1e-5)
    for gradient in jax.tree.leaves(grads):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", temporal.HEADS)
def test_the_content_of_padded_frames_never_reaches_the_video(name):
    module = head(name)
    x = features()
    changed = np.where(MASK[:, :, None], x, features(seed=1))

    before, after = (
        pool(jnp.asarray(tiny.call(module, x, MASK)), jnp.asarray(MASK)) for x in (x, changed)
    )

    np.testing.assert_allclose(before, after, atol=1e-6)


def test_mean_pooling_is_blind_to_the_order_of_frames_and_the_others_are_not():
    x, mask = features(), np.ones((VIDEOS, FRAMES), bool)

    def distance(name):
        module = head(name)
        one, other = (
            pool(jnp.asarray(tiny.call(module, x, mask)), jnp.asarray(mask))
            for x in (x, x[:, ::-1])
        )
        return np.abs(one - other).max()

    assert distance("meanP") < 1e-6
    assert distance("seqTransf") > 1e-3
    assert distance("seqLSTM") > 1e-3


def test_the_transformers_residual_is_the_frames_without_their_positions():
    """With no output from its blocks a stack hands on its input: frames + positions."""
    module = head("seqTransf")
    for layer in (module.transformer.blocks.out_proj, module.transformer.blocks.c_proj):
        layer.kernel = nnx.Param(0 * layer.kernel[...])
        layer.bias = nnx.Param(0 * layer.bias[...])
    x = features()

    got = tiny.call(module, x, MASK)

    positions = np.asarray(module.frame_position_embeddings[...])
    assert positions.shape == (7, WIDTH)
    np.testing.assert_allclose(got, x + positions[:FRAMES] + x, atol=1e-6)


def test_what_is_padded_is_a_million_less_for_the_transformer():
    """Of a video without frames that leaves sixteenths of the scores (parity, SPEC 2.1)."""
    module = head("seqTransf")
    x, mask = features(), MASK.copy()
    mask[1] = False

    got = tiny.call(module, x, mask)

    positions = np.asarray(module.frame_position_embeddings[...])[:FRAMES]
    bias = np.where(mask, 0, -1e6).astype(np.float32)[:, None, None, :]
    expected = tiny.call(module.transformer, x + positions, bias) + x
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_lstm_matches_a_loop_over_gates_and_frames():
    module = head("seqLSTM")
    x = features()

    got = tiny.call(module, x, MASK)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    layers = [(np.asarray(m.kernel[...]), np.asarray(m.bias[...])) for m in (module.ih, module.hh)]
    (from_input, input_bias), (from_hidden, hidden_bias) = layers
    names = ["in", "forget", "cell", "out"]  # PyTorch's order
    for v in range(VIDEOS):
        hidden = cell = np.zeros(WIDTH)
        for f in range(FRAMES):
            gate = {}
            for i, name in enumerate(names):
                part = slice(i * WIDTH, (i + 1) * WIDTH)
                gate[name] = x[v, f] @ from_input[:, part] + hidden @ from_hidden[:, part]
                gate[name] += input_bias[part] + hidden_bias[part]
            cell = sigmoid(gate["forget"]) * cell + sigmoid(gate["in"]) * np.tanh(gate["cell"])
            hidden = sigmoid(gate["out"]) * np.tanh(cell)
            np.testing.assert_allclose(got[v, f], hidden + x[v, f], atol=1e-5)


def test_an_unknown_head_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'meanQ' is unknown.*meanP.*seqTransf.*seqLSTM"):
        head("meanQ")
