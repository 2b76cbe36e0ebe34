"""The residual attention block and its stack compute SPEC 1.1 and 2.1."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from spec17 import MASK, block, fill, grid

from xclip_jax import convert
from xclip_jax.models import transformer
from xclip_jax.models.transformer import TEMPORAL_EPSILON, Transformer, causal_bias, layer_norm


def build(width, layers, heads, **options) -> Transformer:
    return tiny.module(lambda: Transformer(width, layers, heads, rngs=nnx.Rngs(0), **options))


def test_a_temporal_transformer_gives_the_golden_values():
    """SPEC 17 B: width 8, two heads, one layer; printed with nine digits, summed in float32."""
    graphdef, state = nnx.split(build(8, 1, 2, epsilon=TEMPORAL_EPSILON))
    params = {"temporal": {"transformer": nnx.to_pure_dict(state)}}
    params = convert.from_torch(fill(block("transformerClip"), 0.0), (None, params))
    stack = nnx.merge(graphdef, params["temporal"]["transformer"])
    bias = np.where(MASK, 0, -1e6).astype(np.float32)[:, None, None, :]

    got = tiny.call(stack, grid((2, 3, 8), 0.3, 1), bias)

    expected = {
        (0, 0): "4.20110748 -0.927391712 7.08160345 -3.27408257"
        " 2.91862799 -4.73056442 -2.33884683 -0.851841082",
        (1, 1): "-1.56998752 -2.65685025 -3.71025389 3.76461075"
        " -1.82074399 7.4411987 -1.03834317 3.28305843",
        (1, 2): "-1.80211296 -1.6623204 -4.69371226 3.40595111"
        " -2.59234844 6.67928676 -0.341497251 3.05410908",  # masked as a key, still a query
    }
    for place, values in expected.items():
        np.testing.assert_allclose(got[place], np.fromstring(values, sep=" "), atol=2e-5, rtol=0)


def additive(kind: str) -> np.ndarray:
    """Returns a bias for 2 sequences of 5 tokens."""
    if kind == "causal":
        return np.asarray(causal_bias(5))
    seen = np.array([[True, True, True, False, False], [False] * 5])
    return np.where(seen, 0, -1e6).astype(np.float32)[:, None, None, :]


@pytest.mark.parametrize(
    ("activation", "value"),
    [
        ("quick_gelu", lambda x: x / (1 + math.exp(-1.702 * x))),
        ("gelu", lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    ],
)
def test_a_block_has_the_activation_that_is_asked_for(activation, value):
    """All but the MLP's way out is taken away; float32 sums of 12 and 3 values."""
    stack = build(3, 1, 1, activation=activation)
    graphdef, state = nnx.split(stack)
    p = nnx.to_pure_dict(state)["blocks"]
    p["out_proj"] = jax.tree.map(jnp.zeros_like, p["out_proj"])
    x = np.random.default_rng(0).normal(size=(1, 2, 3)).astype(np.float32)

    got = tiny.call(nnx.merge(graphdef, {"blocks": p}), x)

    p = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), p)
    for i in range(2):
        h = (x[0, i] - x[0, i].mean()) / np.sqrt(x[0, i].var() + 1e-5)
        h = (h * p["ln_2"]["scale"] + p["ln_2"]["bias"]) @ p["c_fc"]["kernel"] + p["c_fc"]["bias"]
        h = np.array([value(number) for number in h])
        expected = x[0, i] + h @ p["c_proj"]["kernel"] + p["c_proj"]["bias"]
        np.testing.assert_allclose(got[0, i], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["causal", "padded"])
def test_a_block_matches_loops_over_heads_and_queries(kind):
    """The second padded sequence has no token that may be seen: there scores lose all but their
    sixteenths, since the bias is added in float32 (parity, SPEC 2.1)."""
    batch, tokens, width, heads = 2, 5, 12, 3
    stack, bias = build(width, 1, heads), additive(kind)
    x = 2 * np.random.default_rng(1).normal(size=(batch, tokens, width)).astype(np.float32)

    got = tiny.call(stack, x, bias)

    state = nnx.to_pure_dict(nnx.split(stack)[1])["blocks"]
    p = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), state)
    bias = np.broadcast_to(bias, (batch, 1, tokens, tokens))

    def norm(x, p):
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]
        )

    def linear(x, p):
        return x @ p["kernel"] + p["bias"]

    size = width // heads
    for b in range(batch):
        q, k, v = np.split(linear(norm(x[b], p["ln_1"]), p["in_proj"]), 3, axis=1)
        attended = np.zeros((tokens, width))
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            for i in range(tokens):
                scores = [np.float32(q[i, part] @ k[j, part] / size**0.5) for j in range(tokens)]
                logits = (np.array(scores) + bias[b, 0, i]).astype(np.float64)
                weights = np.exp(logits - logits.max())
                attended[i, part] = weights / weights.sum() @ v[:, part]
        y = x[b] + linear(attended, p["out_proj"])
        h = linear(norm(y, p["ln_2"]), p["c_fc"])
        expected = y + linear(h / (1 + np.exp(-1.702 * h)), p["c_proj"])
        np.testing.assert_allclose(got[b], expected, atol=1e-5, rtol=1e-5)


def test_the_stack_is_its_blocks_in_order():
    stack = build(6, 3, 2)
    x = np.random.default_rng(1).normal(size=(4, 5, 6)).astype(np.float32)

    got = tiny.call(stack, x)

    graphdef, state = nnx.split(stack.blocks)
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    for i in range(3):
        x = run(jax.tree.map(lambda leaf, i=i: leaf[i], state), x)
    np.testing.assert_allclose(got, x, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bias", [None, "causal", "padding"])
def test_the_first_tokens_alone_are_those_of_the_whole_stack(layers, bias):
    graphdef, state = nnx.split(build(6, layers, 2))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5, 6)), jnp.float32)
    padding = jnp.where(jnp.arange(5) < jnp.array([2, 5, 3, 4])[:, None], 0, -1e6)[:, None, None]
    bias = {None: None, "causal": causal_bias(5), "padding": padding}[bias]

    def run(state, **options):
        first = nnx.merge(graphdef, state)(x, bias, **options)[:, :2]
        return (first**2).sum(), first

    run = jax.jit(jax.value_and_grad(run, has_aux=True), static_argnames="first")
    whole, alone = run(state), run(state, first=2)

    assert alone[0][1].shape == (4, 2, 6)
    jax.tree.map(lambda *x: np.testing.assert_allclose(*x, rtol=1e-4, atol=1e-5), whole, alone)


def test_under_the_causal_bias_a_token_never_sees_what_follows():
    stack = build(6, 2, 3)
    x = np.random.default_rng(1).normal(size=(1, 5, 6)).astype(np.float32)
    changed = x.copy()
    changed[0, 3, 2] += 1

    before, after = (tiny.call(stack, x, causal_bias(5)) for x in (x, changed))

    np.testing.assert_array_equal(before[0, :3], after[0, :3])
    assert np.all(np.abs(before[0, 3:] - after[0, 3:]).max(-1) > 1e-4)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_recomputing_activations_changes_no_gradient(remat):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 6)), jnp.float32)

    def gradient(remat):
        graphdef, state = nnx.split(build(6, 2, 3, remat=remat))
        return jax.jit(jax.grad(lambda state: (nnx.merge(graphdef, state)(x) ** 2).mean()))(state)

    kept, recomputed = (jax.tree.leaves(gradient(remat)) for remat in ("none", remat))

    assert len(kept) == len(recomputed) == 12
    for one, other in zip(kept, recomputed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_norm_is_float32_and_exact_far_from_zero():
    """The fast variance E[x^2] - E[x]^2 would lose all digits here."""
    norm = layer_norm(16, epsilon=TEMPORAL_EPSILON, rngs=nnx.Rngs(0))
    x = (3000 + np.random.default_rng(0).normal(size=(3, 16))).astype(np.float32)
    wide = x.astype(np.float64)

    got = norm(jnp.asarray(x))
    narrow = norm(jnp.asarray(x, jnp.bfloat16))

    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    np.testing.assert_allclose(got, expected, atol=1e-3)  # 3000 has a spacing of 2e-4
    assert narrow.dtype == jnp.float32


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"width=10 is not a multiple of heads=3"):
        transformer.Transformer(10, 1, 3, rngs=nnx.Rngs(0))
