"""The training objective: each text must find its video and each video its text (SPEC 3.4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def cross_entropy(scores: Float[Array, "B B"]) -> Float[Array, ""]:
    """Returns the mean over rows of -log softmax(row)[diagonal]."""
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores.astype(jnp.float32), axis=1)))


def symmetric(scores: Float[Array, "B B"]) -> Float[Array, ""]:
    """Returns the mean of both directions (the paper writes their sum; SPEC 15)."""
    return (cross_entropy(scores) + cross_entropy(scores.T)) / 2
