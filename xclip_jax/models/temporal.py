"""From frame features to one video feature: meanP, seqTransf and seqLSTM (SPEC 2, 4)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from xclip_jax.models.transformer import TEMPORAL_EPSILON, Transformer

PADDED = -1e6  # finite and added in float32, as the references do (parity, SPEC 2.1)
# Trained from scratch, positions must stand out beside frame features of scale 1: drawn at 0.02
# they vanish and the order of frames is not learned. From CLIP weights they are copied instead.
POSITION_SCALE = 0.7


def normalize(x: Float[Array, "*b E"]) -> Float[Array, "*b E"]:
    """Returns x / |x|, and zero (with a zero gradient) for a zero vector, never NaN."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    some = square != 0  # true of NaN, which must not pass for a zero vector
    return jnp.where(some, x, 0) * jax.lax.rsqrt(jnp.where(some, square, jnp.float32(1)))


def pool(x: Float[Array, "V F E"], mask: Bool[Array, "V F"]) -> Float[Array, "V E"]:
    """Returns the unit video feature: normalised frames, masked mean, normalised (SPEC 2.3).

    A video without valid frames gives zero where the references give NaN.
    """
    weight = mask.astype(x.dtype)
    total = jnp.einsum("vf,vfe->ve", weight, normalize(x))
    return normalize(total / jnp.maximum(weight.sum(1, keepdims=True), 1))


class MeanP(nnx.Module):
    """Leaves the frames as they are; `pool` then takes their mean."""

    def __call__(self, x: Float[Array, "V F E"], mask: Bool[Array, "V F"]) -> Float[Array, "V F E"]:
        """Returns x."""
        return x


class SeqTransf(nnx.Module):
    """A transformer over the frames with learned positions, added to the frames (SPEC 2.2)."""

    def __init__(
        self, width: int, *, positions: int, layers: int, dtype, remat: str, rngs: nnx.Rngs
    ):
        self.dtype = dtype
        self.frame_position_embeddings = nnx.Param(
            nnx.initializers.normal(POSITION_SCALE)(rngs.params(), (positions, width))
        )
        self.transformer = Transformer(
            width,
            layers,
            width // 64,
            epsilon=TEMPORAL_EPSILON,
            dtype=dtype,
            remat=remat,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "V F E"], mask: Bool[Array, "V F"]) -> Float[Array, "V F E"]:
        """Returns the frames plus what the others tell about each; padded frames are not seen."""
        bias = jnp.where(mask, jnp.float32(0), jnp.float32(PADDED))[:, None, None, :]
        h = x + self.frame_position_embeddings[: x.shape[1]]
        # parity: the residual adds the raw frames, without positions and without a last norm.
        return self.transformer(h.astype(self.dtype), bias).astype(x.dtype) + x


class SeqLSTM(nnx.Module):
    """A one-layer LSTM over the frames in PyTorch's gate order, added to the frames (SPEC 4.3)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        limit = width**-0.5

        def uniform(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -limit, limit)

        def linear() -> nnx.Linear:
            return nnx.Linear(width, 4 * width, kernel_init=uniform, bias_init=uniform, rngs=rngs)

        self.ih, self.hh = linear(), linear()

    def __call__(self, x: Float[Array, "V F E"], mask: Bool[Array, "V F"]) -> Float[Array, "V F E"]:
        """Returns the frames plus the hidden state after each; padding follows the valid frames,
        so what it adds there is masked out by `pool` and never reaches a valid frame."""

        def step(carry, gates_from_input):
            hidden, cell = carry
            i, f, g, o = jnp.split(gates_from_input + self.hh(hidden), 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (hidden, cell), hidden

        zero = jnp.zeros_like(x[:, 0])
        _, hidden = jax.lax.scan(step, (zero, zero), self.ih(x).swapaxes(0, 1))
        return hidden.swapaxes(0, 1) + x


HEADS = ("meanP", "seqTransf", "seqLSTM")


def create_temporal(
    head: str, width: int, *, positions: int, layers: int, dtype, remat: str, rngs: nnx.Rngs
) -> MeanP | SeqTransf | SeqLSTM:
    """Returns the module of that name; `positions` and `layers` are seqTransf's."""
    match head:
        case "meanP":
            return MeanP()
        case "seqLSTM":
            return SeqLSTM(width, rngs=rngs)
        case "seqTransf":
            return SeqTransf(
                width, positions=positions, layers=layers, dtype=dtype, remat=remat, rngs=rngs
            )
    raise ValueError(f"head={head!r} is unknown: set config.model.head to one of {HEADS}.")
