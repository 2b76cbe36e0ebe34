"""The residual attention block of CLIP and its stack, shared by every encoder (SPEC 1.1)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from xclip_jax.sharding import shard_batch

CLIP_EPSILON = 1e-5  # LayerNorm of both CLIP towers
TEMPORAL_EPSILON = 1e-12  # LayerNorm of the transformers added on top of CLIP (parity, SPEC 2.1)


def layer_norm(width: int, *, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Returns a LayerNorm that computes in float32 whatever it is fed.

    The two-pass variance is slower than E[x^2] - E[x]^2 but keeps its digits at epsilon 1e-12.
    """
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def activate(x: Float[Array, "*b"], activation: str) -> Float[Array, "*b"]:
    """Returns x through OpenAI's QuickGELU, or the exact GELU of most of open_clip's models."""
    if activation == "gelu":
        return jax.nn.gelu(x, approximate=False)
    return x * jax.nn.sigmoid(1.702 * x)


def causal_bias(length: int) -> Float[Array, "1 1 N N"]:
    """Returns the additive mask under which a token sees itself and what stands before it."""
    seen = jnp.tril(jnp.ones((length, length), bool))
    return jnp.where(seen, jnp.float32(0), -jnp.inf)[None, None]


def attention(
    q: Float[Array, "B M H C"],
    k: Float[Array, "B N H C"],
    v: Float[Array, "B N H C"],
    bias: Float[Array, "#B #H #M N"] | None = None,
) -> Float[Array, "B M H C"]:
    """Returns softmax(q k^T / sqrt(C) + bias) v, the softmax in float32.

    The scores are products like any other, in the dtype of q: an accelerator keeps them in memory
    on the way back, and as float32 they would be the largest thing there (docs/scaling.md).

    The heads come forward once. jax.nn.dot_product_attention transposes around each of its
    products, which makes a train step on a CPU 1 to 3 % slower.
    """
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    scores = jnp.einsum("bhmc,bhnc->bhmn", q, k).astype(jnp.float32)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.swapaxes(weights @ v, 1, 2)


class Block(nnx.Module):
    """Pre-norm self-attention followed by an MLP, QuickGELU as in OpenAI's CLIP or exact GELU."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        layers: int,
        epsilon: float,
        activation: str,
        dtype,
        rngs: nnx.Rngs,
    ):
        if width % heads:
            raise ValueError(
                f"width={width} is not a multiple of heads={heads}; CLIP uses"
                f" heads = width // 64 (here {width // 64})."
            )
        self.heads, self.activation = heads, activation
        # CLIP's own initialisation: residual branches shrink with depth.
        residual = nnx.initializers.normal(width**-0.5 * (2 * layers) ** -0.5)
        attention = nnx.initializers.normal(width**-0.5)
        hidden = nnx.initializers.normal((2 * width) ** -0.5)

        def linear(n_in: int, n_out: int, init) -> nnx.Linear:
            return nnx.Linear(n_in, n_out, dtype=dtype, kernel_init=init, rngs=rngs)

        self.ln_1 = layer_norm(width, epsilon=epsilon, rngs=rngs)
        self.in_proj = linear(width, 3 * width, attention)
        self.out_proj = linear(width, width, residual)
        self.ln_2 = layer_norm(width, epsilon=epsilon, rngs=rngs)
        self.c_fc = linear(width, 4 * width, hidden)
        self.c_proj = linear(4 * width, width, residual)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        bias: Float[Array, "#B #H #N N"] | None = None,
        *,
        first: int | None = None,
    ) -> Float[Array, "B M D"]:
        """Returns the block's output, of the M = `first` tokens alone where that is given.

        `bias` is added to the attention scores in float32.
        """
        b, n, d = x.shape
        # Every linear layer sees a matrix: with a [B, N, D] input XLA computes the gradient of
        # the weights 2.6 times slower on a CPU.
        qkv = self.in_proj(self.ln_1(x.reshape(b * n, d)))
        # Cut before the heads are made: an accelerator pads their 64 numbers to 128, and the
        # gradient is put together in the shape that was cut.
        q, k, v = (
            part.reshape(b, n, self.heads, d // self.heads) for part in jnp.split(qkv, 3, axis=1)
        )
        q = q[:, :first]
        x = x[:, :first].reshape(-1, d)
        bias = None if bias is None else bias[:, :, :first]
        x = x + self.out_proj(attention(q, k, v, bias).reshape(-1, d))
        h = self.c_fc(self.ln_2(x))
        return (x + self.c_proj(activate(h, self.activation))).reshape(b, -1, d)


class Transformer(nnx.Module):
    """Blocks whose weights are stacked on a leading layer axis and run by one scan.

    With `remat` "dots" the way back computes norms, activations and attention weights again from
    the kept matrix products: less than half the memory of "none", and on a CPU faster than fetching
    them. With "full" the products are computed again too, for a third more compute: of each block
    only its input is kept, one float in ten.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        epsilon: float = CLIP_EPSILON,
        activation: str = "quick_gelu",
        dtype=jnp.float32,
        remat: str = "dots",
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        keys = jax.random.split(rngs.params(), layers)
        self.blocks = jax.vmap(
            lambda key: Block(
                width,
                heads,
                layers=layers,
                epsilon=epsilon,
                activation=activation,
                dtype=dtype,
                rngs=nnx.Rngs(key),
            )
        )(keys)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        bias: Float[Array, "#B #H #N N"] | None = None,
        *,
        first: int | None = None,
    ) -> Float[Array, "B M D"]:
        """Returns the last block's output, of the M = `first` tokens alone where that is given."""

        def body(x, block):
            return shard_batch(block(x, bias)), None

        if self.remat != "none":
            dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            body = jax.checkpoint(body, policy=dots if self.remat == "dots" else None)
        if first is None:
            return jax.lax.scan(body, x, self.blocks)[0]
        x, _ = jax.lax.scan(body, x, jax.tree.map(lambda p: p[:-1], self.blocks))
        last = jax.tree.map(lambda p: p[-1], self.blocks)

        def end(x, block):
            return shard_batch(block(x, bias, first=first))

        return (jax.checkpoint(end) if self.remat == "full" else end)(x, last)
