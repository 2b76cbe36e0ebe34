"""X-CLIP: text and video compared at four granularities, each aggregated by AOSM (SPEC 3)."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from xclip_jax import losses
from xclip_jax.models import similarity
from xclip_jax.models.clip import CLIP
from xclip_jax.models.similarity import Text, Video
from xclip_jax.models.temporal import MeanP, SeqLSTM, SeqTransf, normalize, pool
from xclip_jax.sharding import compare_all, shard_batch


class XCLIP(nnx.Module):
    """CLIP, a temporal encoder, and the comparison of their features.

    Args:
      max_words, max_frames: sizes of the learned matrices.
      contrasts: which of `similarity.CONTRASTS` are averaged.
      aggregation: `aosm`, or the paper's plain ablations: `max_mean` takes the maximum of a
        fine-grained matrix's rows and columns first and the mean of those second. The one-level
        contrasts (video-word, sentence-frame) use the first of the two.
      learned_mixing: whether the eight matrices of the released code exist; without them the
        scores are the paper's equations.
      mask_padding: keeps padded words and frames out of every softmax; the references let them
        take part (parity, SPEC 16 row 8).
    """

    def __init__(
        self,
        clip: CLIP,
        temporal: MeanP | SeqTransf | SeqLSTM,
        *,
        embed_dim: int,
        max_words: int,
        max_frames: int,
        contrasts: tuple[str, ...],
        aggregation: str,
        temperature: float,
        learned_mixing: bool,
        mask_padding: bool,
    ):
        self.clip, self.temporal = clip, temporal
        self.contrasts, self.aggregation, self.temperature = contrasts, aggregation, temperature
        self.mask_padding = mask_padding
        sizes = {
            "global_mat_weight": embed_dim,
            "local_mat_weight": embed_dim,
            "word_logit_weight": max_words,
            "word_mat_weight": max_words,
            "word_mat_weight2": max_words,
            "frame_logit_weight": max_frames,
            "frame_mat_weight": max_frames,
            "frame_mat_weight2": max_frames,
        }
        if not learned_mixing:
            sizes = {}
        self.matrices = tuple(sizes)
        for name, size in sizes.items():
            setattr(self, name, nnx.Param(jnp.eye(size, dtype=jnp.float32)))

    def encode_text(self, tokens: Int[Array, "T W"], token_mask: Bool[Array, "T W"]) -> Text:
        """Returns unit sentence and word features; padded words have one too."""
        sentence, words = self.clip.text(tokens)
        return Text(shard_batch(normalize(sentence)), shard_batch(normalize(words)), token_mask)

    def encode_video(
        self,
        video: UInt8[Array, "V K H W 3"] | Float[Array, "V K H W 3"],
        frame_mask: Bool[Array, "V F"],
    ) -> Video:
        """Returns unit video and frame features; frames are CLIP's own, before the temporal
        encoder (parity, SPEC 3.2)."""
        return self.encode_frames(self.clip.encode_frames(video, frame_mask), frame_mask)

    def encode_frames(self, frames: Float[Array, "V F E"], mask: Bool[Array, "V F"]) -> Video:
        """Returns the features of videos given as CLIP's raw features of their frames."""
        pooled = pool(self.temporal(frames, mask), mask)
        return Video(shard_batch(pooled), shard_batch(normalize(frames)), mask)

    def similarity(
        self, text: Text, video: Video, *, columns: int | None = None
    ) -> Float[Array, "T V"]:
        """Returns the scaled score of every text with every video (SPEC 3.3).

        With `columns`, that many videos are compared at a time: the [V, F, T, W] similarities of
        all would not fit in memory. A gradient computes those of a tile again.
        """
        return shard_batch(self._scores(self._weights(), text, video, columns=columns))

    def loss(
        self,
        text: Text,
        video: Video,
        key: jax.Array,
        same: Bool[Array, "T V"] | None = None,
        padding: int = 0,
    ) -> Float[Array, ""]:
        """Returns the training loss of a batch (SPEC 3.4); `same` as in `losses.symmetric`,
        `padding` as in `losses.without_padding`."""
        pair = self.pair_floats(*text.mask.shape[1:], *video.mask.shape[1:])
        columns = similarity.training_columns(len(text.mask), len(video.mask), pair)
        # The videos' features go to the texts, not the other way: frames are fewer than words.
        compare = functools.partial(self._scores, columns=columns)
        scores = compare_all(compare, self._weights(), text, video)
        return losses.symmetric(losses.without_padding(scores, padding), same)

    def pair_floats(self, words: int, frames: int) -> int:
        """Returns the floats of one pair in the largest tensor of `similarity`."""
        return words * frames

    def _weights(self) -> dict[str, Float[Array, "..."]]:
        """Returns what of the parameters `_scores` takes: the matrices and the scale."""
        matrices = {name: getattr(self, name)[...] for name in self.matrices}
        return matrices | {"scale": jnp.exp(self.clip.logit_scale[...])}

    def _scores(
        self,
        weights: dict[str, Float[Array, "..."]],
        text: Text,
        video: Video,
        *,
        columns: int | None,
    ) -> Float[Array, "T V"]:
        # Attention takes similarities in units of the temperature; the scale takes it out again.
        text = text._replace(
            sentence=text.sentence / self.temperature, words=text.words / self.temperature
        )
        query = text.sentence
        if "global_mat_weight" in weights:
            query = query @ weights["global_mat_weight"]
        words, frames = self._project_one(text.words, video.frames, weights.get("local_mat_weight"))

        # Every tile multiplies by all words: laid out for that here, not in each tile again.
        plain, words = jnp.moveaxis(text.words, -1, 0), jnp.moveaxis(words, -1, 0)

        def compare(tile):
            return self._compare(weights, query, text._replace(words=plain), words, *tile)

        if columns is not None:
            compare = jax.checkpoint(compare)
        return similarity.by_columns(compare, (video, frames), columns, rows=(query.shape[0],))

    def _compare(
        self,
        weights: dict[str, Float[Array, "..."]],
        query: Float[Array, "T E"],
        text: Text,
        words: Float[Array, "E T W"],
        video: Video,
        frames: Float[Array, "V F E"],
    ) -> Float[Array, "T V"]:
        """Returns the scores of sentences, words and frames as they are and as projected.

        The words of both, `text.words` too, come as [E, T, W].
        """
        word_mask = text.mask if self.mask_padding else None
        frame_mask = video.mask if self.mask_padding else None
        first, second = (
            self.aggregation.split("_") if self.aggregation != "aosm" else ("aosm", "aosm")
        )

        def over(kind: str, matrix: str, mask, axes: tuple[int, ...]):
            """Returns the (scores, axis) aggregation; `axes` are the mask's axes to insert."""
            valid = None if mask is None else jnp.expand_dims(mask, axes)
            if kind == "aosm":
                return functools.partial(similarity.attend, mixing=weights.get(matrix), valid=valid)
            plain = {"mean": similarity.mean, "max": similarity.maximum}[kind]
            return functools.partial(plain, valid=valid)

        scores = []
        if "video_sentence" in self.contrasts:
            scores.append(similarity.video_sentence(query, video.video))
        if "video_word" in self.contrasts:
            aggregate = over(first, "word_logit_weight", word_mask, (0,))
            scores.append(similarity.video_word(text.words, video.video, aggregate))
        if "sentence_frame" in self.contrasts:
            aggregate = over(first, "frame_logit_weight", frame_mask, (2,))
            scores.append(similarity.sentence_frame(text.sentence, video.frames, aggregate))
        if "frame_word" in self.contrasts:
            scores.append(
                similarity.frame_word(
                    words,
                    frames,
                    over_words=over(first, "word_mat_weight", word_mask, (0, 1)),
                    over_frames=over(first, "frame_mat_weight", frame_mask, (2, 3)),
                    then_words=over(second, "word_mat_weight2", word_mask, (0,)),
                    then_frames=over(second, "frame_mat_weight2", frame_mask, (2,)),
                )
            )
        scale = weights["scale"] * self.temperature
        return (scale * sum(scores) / len(scores)).T

    @staticmethod
    def _project_one(words: Float[Array, "T W E"], frames: Float[Array, "V F E"], matrix):
        """Returns words @ matrix and the frames, or the words and frames @ matrix.T: whichever
        multiplies fewer rows; all their products are the same."""
        if matrix is None:
            return words, frames
        if words.shape[0] * words.shape[1] <= frames.shape[0] * frames.shape[1]:
            return words @ matrix, frames
        return words, frames @ matrix.T
