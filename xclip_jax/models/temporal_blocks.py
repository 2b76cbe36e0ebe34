"""CLIP2Video's two blocks: differences between frames, and alignment to shared centers (SPEC 5)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from xclip_jax.models.temporal import PADDED, POSITION_SCALE, normalize
from xclip_jax.models.transformer import CLIP_EPSILON, TEMPORAL_EPSILON, Transformer, layer_norm

DIFFERENCES = ("none", "plain", "sigmoid_mlp", "sigmoid_selfA")
CENTER_SCALE = 0.125  # of fresh centers and of a fresh projection, as CLIP2Video's


class MaskedTransformer(nnx.Module):
    """A transformer whose tokens do not see what is padded.

    With `tiled_mask_bug` head h of sample n takes the mask of sample (n H + h) mod V, as the
    released code does: a feature then depends on the batch it is encoded in (parity, SPEC 5.6).
    """

    def __init__(
        self,
        width: int,
        layers: int,
        *,
        heads: int,
        tiled_mask_bug: bool,
        dtype,
        remat: str,
        rngs: nnx.Rngs,
    ):
        self.heads, self.tiled_mask_bug, self.dtype = heads, tiled_mask_bug, dtype
        self.transformer = Transformer(
            width, layers, heads, epsilon=TEMPORAL_EPSILON, dtype=dtype, remat=remat, rngs=rngs
        )

    def __call__(self, x: Float[Array, "V N E"], mask: Bool[Array, "V N"]) -> Float[Array, "V N E"]:
        """Returns float32 outputs for every token, padded ones too."""
        bias = jnp.where(mask, jnp.float32(0), jnp.float32(PADDED))[:, None, None, :]
        if self.tiled_mask_bug:
            videos = x.shape[0]
            taken = jnp.arange(videos * self.heads).reshape(videos, self.heads) % videos
            bias = bias[taken, 0]
        return self.transformer(x.astype(self.dtype), bias).astype(jnp.float32)


class TemporalDifference(nnx.Module):
    """Puts between any two frames a token for what changed (TDB, SPEC 5.2).

    Args:
      projection: what becomes of a difference: `plain` nothing; `sigmoid_mlp` a matrix, a norm and
        a sigmoid onto (-1, 1); `sigmoid_selfA` attention among the differences instead of the
        matrix.
      **attention: of `MaskedTransformer`.
    """

    def __init__(self, width: int, *, projection: str, rngs: nnx.Rngs, **attention):
        self.projection = projection
        self.type_position_embeddings = nnx.Param(
            nnx.initializers.normal(POSITION_SCALE)(rngs.params(), (2, width))
        )
        if projection == "sigmoid_mlp":
            normal = nnx.initializers.normal(CENTER_SCALE)
            self.proj = nnx.Param(normal(rngs.params(), (width, width)))
        if projection == "sigmoid_selfA":
            self.attention = MaskedTransformer(width, 1, rngs=rngs, **attention)
        if projection != "plain":
            self.layer_norm = layer_norm(width, epsilon=CLIP_EPSILON, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "V F E"],
        mask: Bool[Array, "V F"],
        positions: Float[Array, "P E"],
    ) -> tuple[Float[Array, "V N E"], Bool[Array, "V N"]]:
        """Returns the N = 2F - 1 tokens x0 d0 x1 ... x(F-1), positions and types added, and their
        mask.

        parity: a difference has the position and the mask of the frame on its left, so the one
        that leads into padding counts as valid; type 1 is a frame and 0 a difference (SPEC 16, 11).
        """
        videos, frames, width = x.shape
        tokens = 2 * frames - 1
        change = self._project(x[:, 1:] - x[:, :-1], mask[:, 1:], positions[1:frames])
        pairs = jnp.stack([x[:, :-1], change], axis=2).reshape(videos, tokens - 1, width)
        kinds = 1 - jnp.arange(tokens) % 2
        added = jnp.repeat(positions[:frames], 2, axis=0)[:tokens]
        added = added + self.type_position_embeddings[...][kinds]
        x = jnp.concatenate([pairs, x[:, -1:]], axis=1) + added
        return x, jnp.repeat(mask, 2, axis=1)[:, :tokens]

    def _project(self, change, mask, positions):
        """Returns the projected differences; each attends from the position of its right frame."""
        if self.projection == "plain" or not change.shape[1]:  # one frame: nothing changes
            return change
        if self.projection == "sigmoid_mlp":
            change = change @ self.proj
        else:
            change = self.attention(change + positions, mask)
        return 2 * jax.nn.sigmoid(self.layer_norm(change)) - 1


class Centers(nnx.Module):
    """Centers that words and frames share: each set of tokens is described by how it lies around
    them (TAB, SPEC 5.4)."""

    def __init__(self, width: int, *, centers: int, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(CENTER_SCALE)
        self.weight_center = nnx.Param(normal(rngs.params(), (centers, width)))
        self.emb_center = nnx.Param(normal(rngs.params(), (centers, width)))

    def __call__(self, x: Float[Array, "B N E"], mask: Bool[Array, "B N"]) -> Float[Array, "B E"]:
        """Returns one unit feature for each set of un-normalised tokens."""
        share = jax.nn.softmax(x @ self.weight_center[...].T, axis=-1) * mask[:, :, None]
        # The sum over tokens of share * (token - center), without the [B, N, K, E] differences.
        around = jnp.einsum("bnk,bne->bke", share, x)
        around = around - share.sum(1)[:, :, None] * self.emb_center
        return normalize(normalize(around).mean(1))
