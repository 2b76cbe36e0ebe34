"""Optimizers as optax transformations: BertAdam exactly as the references, AdamW from scratch.

Parameters fall into groups by their path: what belongs to CLIP may learn slower (`clip_multiplier`)
and be frozen in part (`freeze_layers`); what is a bias is not decayed.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

MAX_LOGIT_SCALE = math.log(100)
# CLIP's parameters outside the blocks that train whatever is frozen (SPEC 7.3).
_NEVER_FROZEN = re.compile(
    r"clip/(logit_scale|visual/(ln_post|proj|conv2)|text/(ln_final|text_proj))"
)
_MATRIX = re.compile(r"(kernel|proj|text_projection|conv2)$")


class Optimizer(NamedTuple):
    """A gradient transformation and the learning rate it uses at a step, for the log."""

    transformation: optax.GradientTransformation
    learning_rate: Callable[[int], float]


def create(
    name: str,
    *,
    total_steps: int | float,
    learning_rate: float,
    clip_multiplier: float,
    warmup_fraction: float,
    weight_decay: float,
    freeze_layers: int,
) -> Optimizer:
    """Returns the optimizer `name`, `bertadam` or `adamw`.

    Args:
      total_steps: of the whole run; both schedules warm up linearly over `warmup_fraction` of it
        and then follow a cosine, so changing the epochs changes the warm-up (SPEC 16 row 22).
      clip_multiplier: CLIP's parameters learn at `learning_rate * clip_multiplier`.
      freeze_layers: blocks of both towers with a lower index are frozen, and with any value
        above -1 the embeddings too (parity, SPEC 7.3); -1 freezes nothing.
    """
    groups = {"clip_multiplier": clip_multiplier, "freeze_layers": freeze_layers}
    if name == "bertadam":

        def schedule(step):
            return learning_rate * warmup_cosine(step / total_steps, warmup_fraction)

        return Optimizer(bertadam(schedule, weight_decay=weight_decay, **groups), schedule)
    if name == "adamw":
        warmup = max(1, round(warmup_fraction * total_steps))
        end = max(warmup + 1, math.ceil(total_steps))  # a run of one step has no cosine
        schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, end)
        return Optimizer(adamw(schedule, weight_decay=weight_decay, **groups), schedule)
    raise ValueError(
        f"optimizer {name!r} is unknown: set config.optimizer.name to bertadam or adamw."
    )


def warmup_cosine(progress, warmup: float):
    """Returns BertAdam's factor at `progress` = k/T: x/warmup, then a cosine over the whole run.

    parity: the cosine starts at progress 0, not where the warm-up ends, so the rate drops from 1
    to 0.976 there; the first update has rate 0 (SPEC 8).
    """
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return jnp.where(progress < warmup, progress / warmup, cosine)


def bertadam(
    schedule: Callable,
    *,
    weight_decay: float,
    clip_multiplier: float,
    freeze_layers: int,
    b1: float = 0.9,
    b2: float = 0.98,
    eps: float = 1e-6,
    max_norm: float = 1.0,
) -> optax.GradientTransformation:
    """Returns BertAdam (SPEC 8): clip globally, clip each tensor, Adam without bias correction,
    decay decoupled. A frozen parameter is skipped: no update, no decay, no share in the norm."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return {"step": jnp.int32(0), "mean": zeros, "square": jax.tree.map(jnp.copy, zeros)}

    def update(grads, state, params):
        trainable = trainable_masks(params, freeze_layers)
        rates = jax.tree.map(
            lambda rate: rate * schedule(state["step"]), _rates(params, clip_multiplier)
        )
        decays = _decays(params, weight_decay)
        grads = jax.tree.map(lambda g, on: g * on, grads, trainable)
        norm = optax.tree.norm(grads)
        grads = jax.tree.map(lambda g: g * jnp.minimum(1, max_norm / (norm + 1e-6)), grads)
        grads = jax.tree_util.tree_map_with_path(
            lambda path, g: _clip_tensor(g, max_norm, stacked=_is_stacked(path)), grads
        )
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state["mean"], grads)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state["square"], grads)
        updates = jax.tree.map(
            lambda m, v, p, rate, decay, on: -rate * on * (m / (jnp.sqrt(v) + eps) + decay * p),
            mean,
            square,
            params,
            rates,
            decays,
            trainable,
        )
        return updates, {"step": state["step"] + 1, "mean": mean, "square": square}

    return optax.GradientTransformation(init, update)


def adamw(
    schedule: Callable, *, weight_decay: float, clip_multiplier: float, freeze_layers: int
) -> optax.GradientTransformation:
    """Returns optax's AdamW with the same groups; only matrices are decayed."""

    def mask_frozen(updates, params):
        return jax.tree.map(lambda u, on: u * on, updates, trainable_masks(params, freeze_layers))

    def scale_clip(updates, params):
        return jax.tree.map(lambda u, rate: u * rate, updates, _rates(params, clip_multiplier))

    def matrices(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: bool(_MATRIX.search(_join(path))), params
        )

    return optax.chain(
        optax.stateless(mask_frozen),
        optax.adamw(schedule, weight_decay=weight_decay, mask=matrices),
        optax.stateless(scale_clip),
        optax.stateless(mask_frozen),
    )


def clamp_logit_scale(params: dict) -> dict:
    """Returns the parameters with exp(logit_scale) at most 100, as after every step (SPEC 3.4)."""
    scale = jnp.minimum(params["clip"]["logit_scale"], jnp.float32(MAX_LOGIT_SCALE))
    return params | {"clip": params["clip"] | {"logit_scale": scale}}


def trainable_masks(params, freeze_layers: int):
    """Returns for each parameter what its gradient is multiplied by: 1 where it trains, else 0.

    For a stacked parameter that is one value a layer.
    """

    def mask(path, leaf) -> np.ndarray | np.float32:
        name = _join(path)
        if freeze_layers < 0 or not name.startswith("clip/") or _NEVER_FROZEN.match(name):
            return np.float32(1)
        if not _is_stacked(path):
            return np.float32(0)
        layer = np.arange(leaf.shape[0]).reshape(-1, *[1] * (leaf.ndim - 1))
        return (layer >= freeze_layers).astype(np.float32)

    return jax.tree_util.tree_map_with_path(mask, params)


def _rates(params, clip_multiplier: float):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: clip_multiplier if _join(path).startswith("clip/") else 1.0, params
    )


def _decays(params, weight_decay: float):
    """parity: all but biases decay, the learned matrices (towards 0) and norms included."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: 0.0 if _join(path).endswith("bias") else weight_decay, params
    )


def _clip_tensor(g: Float[Array, "..."], max_norm: float, *, stacked: bool) -> Float[Array, "..."]:
    """Clips one tensor, or each layer of a stacked one, to `max_norm`."""
    axes = tuple(range(1, g.ndim)) if stacked else None
    norm = jnp.sqrt(jnp.sum(g * g, axis=axes, keepdims=stacked))
    return g * jnp.minimum(1, max_norm / (norm + 1e-6))


def _is_stacked(path) -> bool:
    return "/blocks/" in _join(path)


def _join(path) -> str:
    return "/".join(str(key.key) for key in path)
