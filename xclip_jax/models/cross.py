"""The cross encoder of tightTransf: one score from the tokens of a text and a video, read together.

X-CLIP's ablation without AOSM has it too (`xclip_transformer.py`). Nothing of it can be computed
ahead for a text or a video alone: every pair is a pass through the transformer (SPEC 4.4).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from xclip_jax.models.temporal import PADDED, POSITION_SCALE
from xclip_jax.models.transformer import TEMPORAL_EPSILON, Transformer, layer_norm

DROPOUT = 0.1  # of the sequences, in training (the references' configuration file)


class CrossEncoder(nnx.Module):
    """A transformer over [sentence, frames], whose first token is pooled (the references' `cross`).

    It starts as the references' does: `positions` and the blocks are copies of CLIP's where CLIP's
    weights are given, the dense layer is drawn at 0.02.
    """

    def __init__(
        self,
        width: int,
        *,
        positions: int,
        layers: int,
        heads: int,
        dtype=jnp.float32,
        remat: str = "dots",
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        self.position_embeddings = nnx.Param(
            nnx.initializers.normal(POSITION_SCALE)(rngs.params(), (positions, width))
        )
        self.transformer = Transformer(
            width, layers, heads, epsilon=TEMPORAL_EPSILON, dtype=dtype, remat=remat, rngs=rngs
        )
        self.ln_pool = layer_norm(width, epsilon=TEMPORAL_EPSILON, rngs=rngs)
        self.dense = nnx.Linear(
            width, width, dtype=dtype, kernel_init=nnx.initializers.normal(0.02), rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "P N E"],
        mask: Bool[Array, "P N"],
        keep: Bool[Array, "P N E"] | None = None,
    ) -> Float[Array, "P E"]:
        """Returns the pooled float32 feature of P sequences.

        `keep` is what dropout leaves, in training; see `draw_kept`.
        """
        x = x + self.position_embeddings[: x.shape[1]]
        if keep is not None:
            x = jnp.where(keep, x / (1 - DROPOUT), 0)
        bias = jnp.where(mask, jnp.float32(0), jnp.float32(PADDED))[:, None, None, :]
        x = self.transformer(x.astype(self.dtype), bias, first=1)[:, 0]
        x = self.dense(self.ln_pool(x)).astype(jnp.float32)
        return x * jax.nn.sigmoid(1.702 * x)


def score_pairs(
    cross: CrossEncoder,
    dense: nnx.Linear,
    text: Float[Array, "G T M E"],
    video: Float[Array, "G V F E"],
    text_mask: Bool[Array, "G T M"],
    video_mask: Bool[Array, "G V F"],
    keys: Key[Array, " V"] | None = None,
) -> Float[Array, "G T V"]:
    """Returns the scores of the texts and videos of each group G, `dense` of what is pooled.

    A pair is one sequence: M tokens of the text, then F of the video. `keys` are dropout's, one a
    video, in training.
    """
    groups, texts, first, width = text.shape
    videos, second = video.shape[1:3]
    pairs, length = (groups, texts, videos), first + second

    def joined(one, other, *last: int):
        one = jnp.broadcast_to(one[:, :, None], (*pairs, first, *last))
        other = jnp.broadcast_to(other[:, None], (*pairs, second, *last))
        return jnp.concatenate([one, other], axis=3).reshape(-1, length, *last)

    keep = None
    if keys is not None:
        keep = draw_kept(keys, (groups, texts, length, width))
        keep = jnp.moveaxis(keep, 0, 2).reshape(-1, length, width)
    pooled = cross(joined(text, video, width), joined(text_mask, video_mask), keep)
    return dense(pooled).reshape(pairs)


def draw_kept(keys: Key[Array, " V"], shape: tuple[int, ...]) -> Bool[Array, "V ..."]:
    """Returns what dropout keeps of one array of `shape` for each key.

    One key a video: what is drawn depends neither on tiles nor on devices.
    """
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - DROPOUT, shape))(keys)
