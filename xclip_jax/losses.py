"""The training objective: each text must find its video and each video its text (SPEC 3.4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

OUT = -1e9  # a score that counts for nothing; finite, so that a batch of one video has a gradient


def without_padding(scores: Shaped[Array, "T V"], padding: int) -> Shaped[Array, "t v"]:
    """Returns the scores of the real texts and videos of a batch whose last `padding` texts, and
    the videos that they belong to, are blank.

    Devices that each had a share of the rows still have one: nothing moves between them.
    """
    texts, videos = scores.shape
    kept = texts - padding
    return scores[:kept, : kept * videos // texts]


def cross_entropy(scores: Float[Array, "B B"]) -> Float[Array, ""]:
    """Returns the mean over rows of -log softmax(row)[diagonal]."""
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores.astype(jnp.float32), axis=1)))


def symmetric(
    scores: Float[Array, "T V"], same: Bool[Array, "T V"] | None = None
) -> Float[Array, ""]:
    """Returns the mean of both directions (the paper writes their sum; SPEC 15).

    Text i belongs to video i. With `same`, several texts in a row may belong to each video, T / V
    of them, and what `same` marks are texts that describe a video but are not its own in the batch,
    or its own: neither counts as a negative. The references let them (parity).
    """
    if same is None:
        return (cross_entropy(scores) + cross_entropy(scores.T)) / 2
    scores = scores.astype(jnp.float32)
    texts, videos = scores.shape
    own = jnp.repeat(jnp.eye(videos, dtype=bool), texts // videos, axis=0)
    right = jnp.sum(jnp.where(own, scores, 0), axis=1)
    wrong = jnp.where(same | own, OUT, scores)
    of_text, of_video = (jax.nn.logsumexp(wrong, axis=axis) for axis in (1, 0))
    of_video = jnp.repeat(of_video, texts // videos)
    losses = (jnp.logaddexp(right, others) - right for others in (of_text, of_video))
    return sum(loss.mean() for loss in losses) / 2
