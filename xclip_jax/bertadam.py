"""BertAdam exactly as the references have it (SPEC 8), in float32 or in their float16 (SPEC 9)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from xclip_jax.parameter_groups import decays, gradient_scales, is_stacked, rates, trainable_masks

B1, B2, EPSILON, MAX_NORM = 0.9, 0.98, 1e-6, 1.0


def warmup_cosine(progress, warmup: float):
    """Returns BertAdam's factor at `progress` = k/T: x/warmup, then a cosine over the whole run.

    parity: the cosine starts at progress 0, not where the warm-up ends, so the rate drops from 1
    to 0.976 there; the first update has rate 0 (SPEC 8). With `warmup` 0 it begins at rate 1.
    """
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    if not warmup:
        return cosine
    return jnp.where(progress < warmup, progress / warmup, cosine)


def bertadam(
    schedule: Callable,
    *,
    weight_decay: float,
    clip_multiplier: float,
    freeze_layers: int,
    encoder_gradient_scale: float,
) -> optax.GradientTransformation:
    """Returns BertAdam: clip globally, clip each tensor, Adam without bias correction, decay
    decoupled. A frozen parameter is skipped: no update, no decay, no share in the norm.

    A parameter that is stored in float16 is updated in float16: its moments are, and every result
    on the way is rounded. Below |g| = 1.2e-3 its second moment underflows to 0, which leaves
    momentum at 1e6 times the learning rate (parity, SPEC 9).
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return {"step": jnp.int32(0), "mean": zeros, "square": jax.tree.map(jnp.copy, zeros)}

    def update(grads, state, params):
        trainable = trainable_masks(params, freeze_layers)
        shares = rates(params, clip_multiplier)
        scales = gradient_scales(params, encoder_gradient_scale)
        rate = schedule(state["step"])
        grads = jax.tree.map(
            lambda g, on, scale: _stored(_wide(g) * on * scale, g), grads, trainable, scales
        )
        norm = optax.tree.norm(jax.tree.map(_wide, grads))
        clip = jnp.minimum(1, MAX_NORM / (norm + 1e-6))
        grads = jax.tree_util.tree_map_with_path(
            lambda path, g: _clip_tensor(_stored(_wide(g) * clip, g), stacked=is_stacked(path)),
            grads,
        )
        mean = jax.tree.map(lambda m, g: _moment(m, _wide(g), B1), state["mean"], grads)
        square = jax.tree.map(lambda v, g: _moment(v, _wide(g) ** 2, B2), state["square"], grads)
        updates = jax.tree.map(
            lambda m, v, p, share, decay, on: _update(m, v, p, rate * share * on, decay),
            mean,
            square,
            params,
            shares,
            decays(params, weight_decay),
            trainable,
        )
        return updates, {"step": state["step"] + 1, "mean": mean, "square": square}

    return optax.GradientTransformation(init, update)


def _clip_tensor(g: Float[Array, "..."], *, stacked: bool) -> Float[Array, "*n"]:
    """Clips one tensor, or each layer of a stacked one, to MAX_NORM."""
    axes = tuple(range(1, g.ndim)) if stacked else None
    norm = jnp.sqrt(jnp.sum(_wide(g) ** 2, axis=axes, keepdims=stacked))
    return _stored(_wide(g) * jnp.minimum(1, MAX_NORM / (norm + 1e-6)), g)


def _moment(moment: Float[Array, "..."], new: Float[Array, "*n"], decay: float):
    """Returns the running mean after one more value."""
    kept = _stored(decay * _wide(moment), moment)
    return _stored(_wide(kept) + (1 - decay) * new, moment)


def _update(mean, square, param, rate, decay):
    """Returns what is added to a parameter."""
    root = _stored(jnp.sqrt(_wide(square)), param)
    step = _stored(_wide(mean) / _wide(_stored(_wide(root) + EPSILON, param)), param)
    step = _stored(_wide(step) + _wide(_stored(decay * _wide(param), param)), param)
    return _stored(-rate * _wide(step), param)


def _wide(x: Float[Array, "..."]) -> Float[Array, "*n"]:
    return x.astype(jnp.float32)


def _stored(x: Float[Array, "..."], like: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns x rounded to the dtype that its parameter is stored in.

    XLA may drop a rounding that is undone at once (excess precision), and with it the underflow
    that this arithmetic is about; the barrier keeps it from seeing both.
    """
    x = x.astype(like.dtype)
    return x if like.dtype == jnp.float32 else jax.lax.optimization_barrier(x)
