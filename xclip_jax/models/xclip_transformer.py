"""X-CLIP with a transformer in place of AOSM, the ablation of the paper's appendix (SPEC 14.3).

The paper has a figure of it and says: three layers over the multi-grained features, a linear layer
for the score. What that leaves open is as in the released code's cross encoder: dropout, hidden
padding, positions and blocks that start as CLIP's, the first token pooled.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from xclip_jax import losses
from xclip_jax.models.clip import CLIP
from xclip_jax.models.cross import CrossEncoder, score_pairs
from xclip_jax.models.similarity import Text, Video, by_columns, training_columns
from xclip_jax.models.temporal import MeanP, SeqLSTM, SeqTransf, normalize, pool
from xclip_jax.sharding import shard_batch

LAYERS = 3


class TransformerXCLIP(nnx.Module):
    """CLIP, a temporal encoder, and a cross encoder that reads the sentence and its words with the
    video and its frames: one pass for each pair."""

    def __init__(
        self,
        clip: CLIP,
        temporal: MeanP | SeqTransf | SeqLSTM,
        cross: CrossEncoder,
        *,
        rngs: nnx.Rngs,
    ):
        self.clip, self.temporal, self.cross = clip, temporal, cross
        self.width = cross.dense.out_features
        self.similarity_dense = nnx.Linear(
            self.width, 1, kernel_init=nnx.initializers.normal(0.02), rngs=rngs
        )

    def encode_text(self, tokens: Int[Array, "T W"], token_mask: Bool[Array, "T W"]) -> Text:
        """Returns unit sentence and word features, X-CLIP's."""
        sentence, words = self.clip.text(tokens)
        return Text(shard_batch(normalize(sentence)), shard_batch(normalize(words)), token_mask)

    def encode_video(
        self,
        video: UInt8[Array, "V K H W 3"] | Float[Array, "V K H W 3"],
        frame_mask: Bool[Array, "V F"],
    ) -> Video:
        """Returns unit video and frame features, X-CLIP's."""
        return self.encode_frames(self.clip.encode_frames(video, frame_mask), frame_mask)

    def encode_frames(self, frames: Float[Array, "V F E"], mask: Bool[Array, "V F"]) -> Video:
        """Returns the features of videos given as CLIP's raw features of their frames."""
        pooled = pool(self.temporal(frames, mask), mask)
        return Video(shard_batch(pooled), shard_batch(normalize(frames)), mask)

    def similarity(
        self, text: Text, video: Video, *, columns: int | None = None
    ) -> Float[Array, "T V"]:
        """Returns the score of every text with every video, `columns` videos at a time."""
        compare, tokens = self._pairs(text), _tokens(video.video, video.frames, video.mask)
        rows = (text.mask.shape[0],)
        return shard_batch(by_columns(lambda tile: compare(*tile), tokens, columns, rows=rows))

    def loss(
        self,
        text: Text,
        video: Video,
        key: Key[Array, ""],
        same: Bool[Array, "T V"] | None = None,
        padding: int = 0,
    ) -> Float[Array, ""]:
        """Returns the training loss of a batch, with dropout; `same` as in `losses.symmetric`.

        The last `padding` texts, and their videos, are blank: no pair of them is read.
        """
        texts = text.mask.shape[0] - padding
        videos = texts * video.mask.shape[0] // text.mask.shape[0]
        text = jax.tree.map(lambda x: x[:texts], text)
        video = jax.tree.map(lambda x: x[:videos], video)
        floats = self.pair_floats(text.mask.shape[1], video.mask.shape[1])
        columns = training_columns(texts, videos, floats)
        compare = self._pairs(text)
        if columns is not None:
            compare = jax.checkpoint(compare)
        tiles = (*_tokens(video.video, video.frames, video.mask), jax.random.split(key, videos))
        scores = by_columns(lambda tile: compare(*tile), tiles, columns, rows=(texts,))
        return losses.symmetric(shard_batch(scores), same)

    def pair_floats(self, words: int, frames: int) -> int:
        """Returns the floats of one pair in the largest tensor of `similarity`: the MLP's."""
        return (2 + words + frames) * 4 * self.width

    def _pairs(self, text: Text):
        """Returns what scores all texts with some videos, given as `_tokens`."""
        tokens, mask = _tokens(text.sentence, text.words, text.mask)

        def compare(videos, video_mask, keys=None):
            one = (x[None] for x in (tokens, videos, mask, video_mask))
            return score_pairs(self.cross, self.similarity_dense, *one, keys)[0]

        return compare


def _tokens(
    whole: Float[Array, "B E"], parts: Float[Array, "B N E"], mask: Bool[Array, "B N"]
) -> tuple[Float[Array, "B N+1 E"], Bool[Array, "B N+1"]]:
    """Returns the whole and its parts as tokens of scale 1, beside which positions do not stand
    out, and their mask."""
    tokens = jnp.concatenate([whole[:, None], parts], axis=1) * parts.shape[-1] ** 0.5
    return tokens, jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
