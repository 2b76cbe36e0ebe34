"""CLIP2Video: differences between frames (TDB), and alignment to shared centers (TAB) (SPEC 5).

Its release cannot train: it holds the forward pass of training, but no trainer. Here it trains.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from xclip_jax import losses
from xclip_jax.models.clip import CLIP
from xclip_jax.models.temporal import POSITION_SCALE, normalize, pool
from xclip_jax.models.temporal_blocks import Centers, MaskedTransformer, TemporalDifference
from xclip_jax.sharding import shard_batch

HEADS = ("meanP", "seqTransf")
ALIGNMENTS = ("none", "plain", "TAB", "TAB_TDB")


class Text(NamedTuple):
    """Features of T texts; `aligned` is [T, 0] in a model without alignment."""

    sentence: Float[Array, "T E"]
    aligned: Float[Array, "T A"]
    mask: Bool[Array, "T W"]


class Video(NamedTuple):
    """Features of V videos; `aligned` is [V, 0] in a model without alignment."""

    video: Float[Array, "V E"]
    aligned: Float[Array, "V A"]
    mask: Bool[Array, "V F"]


class CLIP2Video(nnx.Module):
    """CLIP, a transformer over frames and their differences, and centers of alignment.

    Args:
      positions: rows of the table of frame positions.
      layers: of the transformer over the frames.
      head: `seqTransf`, or `meanP` for none.
      difference: of `temporal_blocks.DIFFERENCES`; `none` gives the transformer frames alone.
      alignment: what stands beside the frames when they are aligned: `plain` nothing, `TAB` every
        second frame after a transformer, `TAB_TDB` the same with differences; `none`: no alignment.
      centers: how many.
      center_weight: share of the global score; the aligned score has the rest.
      **attention: `heads`, `tiled_mask_bug`, `dtype` and `remat` of every `MaskedTransformer`.
    """

    def __init__(
        self,
        clip: CLIP,
        *,
        embed_dim: int,
        positions: int,
        layers: int,
        head: str,
        difference: str,
        alignment: str,
        centers: int,
        center_weight: float,
        rngs: nnx.Rngs,
        **attention,
    ):
        self.clip, self.alignment, self.center_weight = clip, alignment, center_weight
        self.differences_in_head = head == "seqTransf" and difference != "none"
        self.temporal = self.difference = self.action = self.centers = nnx.data(None)
        if head == "seqTransf":
            self.temporal = MaskedTransformer(embed_dim, layers, rngs=rngs, **attention)
        if self.differences_in_head or alignment == "TAB_TDB":
            self.difference = TemporalDifference(
                embed_dim, projection=difference, rngs=rngs, **attention
            )
        if alignment in ("TAB", "TAB_TDB"):
            self.action = MaskedTransformer(embed_dim, 1, rngs=rngs, **attention)
        if alignment != "none":
            self.centers = Centers(embed_dim, centers=centers, rngs=rngs)
        if self.temporal or self.action:  # the release has none with meanP, and breaks with TAB
            normal = nnx.initializers.normal(POSITION_SCALE)
            table = normal(rngs.params(), (positions, embed_dim))
            self.frame_position_embeddings = nnx.Param(table)

    def encode_text(self, tokens: Int[Array, "T W"], token_mask: Bool[Array, "T W"]) -> Text:
        """Returns unit features of the sentence and of its words around the centers."""
        return self.encode_words(*self.clip.text(tokens), token_mask)

    def encode_words(
        self, sentence: Float[Array, "T E"], words: Float[Array, "T W E"], mask: Bool[Array, "T W"]
    ) -> Text:
        """Returns the features of texts given as CLIP's raw ones; the start token is left out."""
        after_start = mask & (jnp.arange(mask.shape[1]) > 0)
        aligned = self._align(words, after_start)
        return Text(shard_batch(normalize(sentence)), shard_batch(aligned), mask)

    def encode_video(
        self,
        video: UInt8[Array, "V K H W 3"] | Float[Array, "V K H W 3"],
        frame_mask: Bool[Array, "V F"],
    ) -> Video:
        """Returns unit features of the video and of its frames around the centers."""
        return self.encode_frames(self.clip.encode_frames(video, frame_mask), frame_mask)

    def encode_frames(self, frames: Float[Array, "V F E"], mask: Bool[Array, "V F"]) -> Video:
        """Returns the features of videos given as CLIP's raw features of their frames."""
        x = frames
        if self.temporal:
            x = self._attend(self.temporal, frames, mask, differences=self.differences_in_head)
        tokens, token_mask = frames, mask
        if self.action:
            half, half_mask = frames[:, ::2], mask[:, ::2]
            with_differences = self.alignment == "TAB_TDB"
            acted = self._attend(self.action, half, half_mask, differences=with_differences)
            tokens = jnp.concatenate([frames, acted], axis=1)
            token_mask = jnp.concatenate([mask, half_mask], axis=1)
        return Video(shard_batch(pool(x, mask)), shard_batch(self._align(tokens, token_mask)), mask)

    def similarity(
        self, text: Text, video: Video, *, columns: int | None = None
    ) -> Float[Array, "T V"]:
        """Returns the scaled score of every text with every video: the weighted sum of both
        (SPEC 5.5). It is two matrix products, so `columns` is not needed."""
        scores = self._global(text, video)
        if self.centers:
            share = self.center_weight
            scores = share * scores + (1 - share) * self._aligned(text, video)
        return shard_batch(scores)

    def loss(
        self,
        text: Text,
        video: Video,
        key: jax.Array,
        same: Bool[Array, "T V"] | None = None,
        padding: int = 0,
    ) -> Float[Array, ""]:
        """Returns the weighted sum of the losses of both scores: not the loss of their sum; `same`
        as in `losses.symmetric`, `padding` as in `losses.without_padding`."""

        def loss_of(scores):
            return losses.symmetric(losses.without_padding(scores, padding), same)

        loss = loss_of(self._global(text, video))
        if self.centers:
            share = self.center_weight
            loss = share * loss + (1 - share) * loss_of(self._aligned(text, video))
        return loss

    def pair_floats(self, words: int, frames: int) -> int:
        """Returns the floats of one pair in the largest tensor of `similarity`: its score."""
        return 1

    def _global(self, text: Text, video: Video) -> Float[Array, "T V"]:
        return shard_batch(jnp.exp(self.clip.logit_scale[...]) * text.sentence @ video.video.T)

    def _aligned(self, text: Text, video: Video) -> Float[Array, "T V"]:
        return shard_batch(jnp.exp(self.clip.logit_scale[...]) * text.aligned @ video.aligned.T)

    def _attend(
        self,
        transformer: MaskedTransformer,
        x: Float[Array, "V F E"],
        mask: Bool[Array, "V F"],
        *,
        differences: bool,
    ) -> Float[Array, "V F E"]:
        """Returns the frames plus what the others, or their differences too, tell about each."""
        table = self.frame_position_embeddings[...]
        if not differences:
            return transformer(x + table[: x.shape[1]], mask) + x
        tokens, token_mask = self.difference(x, mask, table)
        return transformer(tokens, token_mask)[:, ::2] + x

    def _align(self, x: Float[Array, "B N E"], mask: Bool[Array, "B N"]) -> Float[Array, "B A"]:
        if self.centers is None:
            return jnp.zeros((x.shape[0], 0), jnp.float32)
        return self.centers(x, mask)
