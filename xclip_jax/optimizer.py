"""Optimizers by name, as optax transformations, and how the parameters they update are stored.

bertadam       the references' own, in float32
bertadam_fp16  the same with CLIP's weights in float16: the regime of the published numbers
adamw          optax's, for a CLIP with learning rates of today or a model from scratch

docs/parity.md says when to use which.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from xclip_jax.bertadam import bertadam, warmup_cosine
from xclip_jax.parameter_groups import gradient_scales, halve, matrices, rates, trainable_masks

NAMES = ("bertadam", "bertadam_fp16", "adamw")
MAX_LOGIT_SCALE = math.log(100)


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
    encoder_gradient_scale: float,
) -> Optimizer:
    """Returns the optimizer `name`, one of `NAMES`.

    Args:
      total_steps: of the whole run; both schedules warm up linearly over `warmup_fraction` of it
        and then follow a cosine, so changing the epochs changes the warm-up (parity, SPEC 16 row
        22).
      clip_multiplier: CLIP's parameters learn at `learning_rate * clip_multiplier`.
      freeze_layers: blocks of both towers with a lower index are frozen, and with any value
        above -1 the embeddings too (parity, SPEC 7.3); -1 freezes nothing.
      encoder_gradient_scale: multiplies the gradients of both towers and of the temporal encoder
        before any clipping; 1/N is what N GPUs of the references do (SPEC 6).
    """
    groups = {
        "weight_decay": weight_decay,
        "clip_multiplier": clip_multiplier,
        "freeze_layers": freeze_layers,
        "encoder_gradient_scale": encoder_gradient_scale,
    }
    if name in ("bertadam", "bertadam_fp16"):

        def schedule(step):
            return learning_rate * warmup_cosine(step / total_steps, warmup_fraction)

        return Optimizer(bertadam(schedule, **groups), schedule)
    if name == "adamw":
        warmup = max(1, round(warmup_fraction * total_steps)) if warmup_fraction else 0
        end = max(warmup + 1, math.ceil(total_steps))  # a run of one step has no cosine
        schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, end)
        return Optimizer(adamw(schedule, **groups), schedule)
    raise ValueError(
        f"optimizer {name!r} is unknown: set config.optimizer.name to one of {', '.join(NAMES)}."
    )


def store(params: dict, name: str) -> dict:
    """Returns float32 parameters in the dtypes in which optimizer `name` keeps them."""
    return halve(params) if name == "bertadam_fp16" else params


def adamw(
    schedule: Callable,
    *,
    weight_decay: float,
    clip_multiplier: float,
    freeze_layers: int,
    encoder_gradient_scale: float,
) -> optax.GradientTransformation:
    """Returns optax's AdamW with the same groups; only matrices are decayed."""

    def mask_frozen(updates, params):
        return jax.tree.map(lambda u, on: u * on, updates, trainable_masks(params, freeze_layers))

    def scale_encoders(updates, params):
        scales = gradient_scales(params, encoder_gradient_scale)
        return jax.tree.map(lambda u, scale: u * scale, updates, scales)

    def slow_clip(updates, params):
        return jax.tree.map(lambda u, rate: u * rate, updates, rates(params, clip_multiplier))

    return optax.chain(
        optax.stateless(mask_frozen),
        optax.stateless(scale_encoders),
        optax.adamw(schedule, weight_decay=weight_decay, mask=matrices),
        optax.stateless(slow_clip),
        optax.stateless(mask_frozen),
    )


def clamp_logit_scale(params: dict) -> dict:
    """Returns the parameters with exp(logit_scale) at most 100, as after every step (parity: from
    CLIP's weights it starts there and never moves, SPEC 3.4)."""
    scale = jnp.minimum(params["clip"]["logit_scale"], jnp.float32(MAX_LOGIT_SCALE))
    return params | {"clip": params["clip"] | {"logit_scale": scale}}
