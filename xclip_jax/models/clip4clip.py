"""CLIP4Clip: one vector a text and one a video, or a cross encoder over every pair (SPEC 4)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from xclip_jax import losses
from xclip_jax.models.clip import CLIP
from xclip_jax.models.cross import CrossEncoder, score_pairs
from xclip_jax.models.similarity import Text, Video, by_columns
from xclip_jax.models.temporal import MeanP, SeqLSTM, SeqTransf, normalize, pool
from xclip_jax.sharding import shard_batch

# Floats of the widest layer of one tile in training. Of a tile all layers' products are kept on the
# way back, about ten times as much; of the rest of the batch only its scores.
TRAINING_FLOATS = 2**26


class CLIP4Clip(nnx.Module):
    """CLIP and a temporal encoder; the score is the scaled cosine (meanP, seqLSTM, seqTransf)."""

    def __init__(self, clip: CLIP, temporal: MeanP | SeqTransf | SeqLSTM):
        self.clip, self.temporal = clip, temporal

    def encode_text(self, tokens: Int[Array, "T W"], token_mask: Bool[Array, "T W"]) -> Text:
        """Returns unit sentence and word features; only the sentence is compared."""
        sentence, words = self.clip.text(tokens)
        return Text(shard_batch(normalize(sentence)), shard_batch(normalize(words)), token_mask)

    def encode_video(
        self,
        video: UInt8[Array, "V K H W 3"] | Float[Array, "V K H W 3"],
        frame_mask: Bool[Array, "V F"],
    ) -> Video:
        """Returns unit video and frame features; only the video is compared."""
        return self.encode_frames(self.clip.encode_frames(video, frame_mask), frame_mask)

    def encode_frames(self, frames: Float[Array, "V F E"], mask: Bool[Array, "V F"]) -> Video:
        """Returns the features of videos given as CLIP's raw features of their frames."""
        pooled = pool(self.temporal(frames, mask), mask)
        return Video(shard_batch(pooled), shard_batch(normalize(frames)), mask)

    def similarity(
        self, text: Text, video: Video, *, columns: int | None = None
    ) -> Float[Array, "T V"]:
        """Returns the scaled cosine of every text with every video: one product, so no tiles."""
        scale = jnp.exp(self.clip.logit_scale[...])
        return shard_batch(scale * (text.sentence @ video.video.T))

    def loss(
        self,
        text: Text,
        video: Video,
        key: Key[Array, ""],
        same: Bool[Array, "T V"] | None = None,
        padding: int = 0,
    ) -> Float[Array, ""]:
        """Returns the training loss of a batch; `same` as in `losses.symmetric`, `padding` as in
        `losses.without_padding`."""
        return losses.symmetric(losses.without_padding(self.similarity(text, video), padding), same)

    def pair_floats(self, words: int, frames: int) -> int:
        """Returns the floats of one pair in the largest tensor of `similarity`."""
        return 1


class TightCLIP4Clip(nnx.Module):
    """CLIP and a cross encoder that reads each sentence with each video's frames (tightTransf).

    Args:
      negative_groups: into how many parts a training batch is split, each of which knows only its
        own negatives, as on the references' GPUs (parity, SPEC 4.4); 1 contrasts the whole batch.
    """

    def __init__(self, clip: CLIP, cross: CrossEncoder, *, negative_groups: int, rngs: nnx.Rngs):
        self.clip, self.cross, self.negative_groups = clip, cross, negative_groups
        self.width = cross.dense.out_features
        self.similarity_dense = nnx.Linear(
            self.width, 1, kernel_init=nnx.initializers.normal(0.02), rngs=rngs
        )

    def encode_text(self, tokens: Int[Array, "T W"], token_mask: Bool[Array, "T W"]) -> Text:
        """Returns sentence and word features as CLIP gives them; only the sentence is compared."""
        sentence, words = self.clip.text(tokens)
        return Text(shard_batch(sentence), shard_batch(words), token_mask)

    def encode_video(
        self,
        video: UInt8[Array, "V K H W 3"] | Float[Array, "V K H W 3"],
        frame_mask: Bool[Array, "V F"],
    ) -> Video:
        """Returns the frames' features as CLIP gives them, which are compared, and their unit
        mean."""
        return self.encode_frames(self.clip.encode_frames(video, frame_mask), frame_mask)

    def encode_frames(self, frames: Float[Array, "V F E"], mask: Bool[Array, "V F"]) -> Video:
        """Returns the features of videos given as CLIP's raw features of their frames."""
        return Video(shard_batch(pool(frames, mask)), shard_batch(frames), mask)

    def similarity(
        self, text: Text, video: Video, *, columns: int | None = None
    ) -> Float[Array, "T V"]:
        """Returns the score of every text with every video, `columns` videos at a time."""

        def compare(tile):
            frames, mask = tile
            return self._compare(text.sentence[None], frames[None], mask[None])[0]

        rows = (text.sentence.shape[0],)
        return shard_batch(by_columns(compare, (video.frames, video.mask), columns, rows=rows))

    def loss(
        self,
        text: Text,
        video: Video,
        key: Key[Array, ""],
        same: None = None,
        padding: int = 0,
    ) -> Float[Array, ""]:
        """Returns the training loss of a batch in which text i belongs to video i, with dropout.

        The last `padding` texts and videos are blank: they are in no group, and no pair is read.
        Where all scores are too much at once, they are computed in tiles, and again on the way
        back: memory does not grow with the square of the batch.
        """
        if same is not None:
            raise ValueError(
                "head=tightTransf knows only batches of as many texts as videos, all others of"
                " which are negatives: set config.data.captions_per_video to 1 and"
                " config.data.same_video_negatives to True."
            )
        batch, frames = video.mask.shape[0] - padding, video.mask.shape[1]
        groups = self.negative_groups
        if batch % groups:
            raise ValueError(
                f"a batch of {batch} has no {groups} equal parts: set config.batch_size to a"
                " multiple of config.model.negative_groups."
            )
        size = batch // groups
        sentence = text.sentence[:batch].reshape(groups, size, -1)

        def compare(tile):
            frames, mask, keys = tile  # columns lead: a tile is some videos of each group
            return self._compare(sentence, frames.swapaxes(0, 1), mask.swapaxes(0, 1), keys)

        def columns_first(x):
            return x[:batch].reshape(groups, size, *x.shape[1:]).swapaxes(0, 1)

        columns = max(1, TRAINING_FLOATS // (batch * self.pair_floats(0, frames)))
        if columns < size:
            compare = jax.checkpoint(compare)
        tiles = columns_first(video.frames), columns_first(video.mask), jax.random.split(key, size)
        scores = by_columns(compare, tiles, columns, rows=(groups, size))
        return jax.vmap(losses.symmetric)(scores).mean()

    def pair_floats(self, words: int, frames: int) -> int:
        """Returns the floats of one pair in the largest tensor of `similarity`: the MLP's."""
        return (1 + frames) * 4 * self.width

    def _compare(
        self,
        sentence: Float[Array, "G T E"],
        frames: Float[Array, "G V F E"],
        mask: Bool[Array, "G V F"],
        keys: Key[Array, " V"] | None = None,
    ) -> Float[Array, "G T V"]:
        """Returns the scores of the texts and videos of each group G; `keys` are dropout's."""
        text, seen = sentence[:, :, None], jnp.ones((*sentence.shape[:2], 1), bool)
        return score_pairs(self.cross, self.similarity_dense, text, frames, seen, mask, keys)
