"""Floating-point operations of a model, counted in its traced program: two a multiplication.

XLA's own count takes the body of a scan once, however often it runs, so it cannot be used. Matrix
products and convolutions are counted; norms, softmaxes and the optimizer, a percent or two, are
not.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx


def train_step(graphdef, params: dict, batch: dict) -> int:
    """Returns the operations that a forward and a backward pass of a batch need, over all devices.

    Recomputed activations are not counted. The backward pass costs twice the forward pass, but no
    gradient of the pixels is needed. Parameters and batch may be arrays or their shapes; see
    `train_step.abstract_batch`.
    """

    def forward(params, batch):
        model = nnx.merge(graphdef, params)
        text = model.encode_text(batch["tokens"], batch["token_mask"])
        video = model.encode_video(batch["video"], batch["frame_mask"])
        same = None
        if "video_ids" in batch:  # its values change no product
            same = jnp.zeros((len(batch["tokens"]), len(batch["video_ids"])), bool)
        return model.loss(text, video, jax.random.key(0), same)

    return 3 * _of(forward, params, batch) - _patch_embedding(
        params["clip"]["visual"], batch["video"]
    )


def similarity(graphdef, params: dict, text, video) -> int:
    """Returns the operations that the scores of texts and videos need, given their features."""

    def scores(params, text, video):
        return nnx.merge(graphdef, params).similarity(text, video)

    return _of(scores, params, text, video)


def count(jaxpr) -> int:
    """Returns the operations that a jaxpr executes, over all devices."""
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        match equation.primitive.name:
            case "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                left = equation.invars[0].aval.shape
                summed = math.prod(left[axis] for axis in contracted)
                total += 2 * equation.outvars[0].aval.size * summed
            case "conv_general_dilated":
                kernel = equation.invars[1].aval
                features = equation.params["dimension_numbers"].rhs_spec[0]
                each = kernel.size // kernel.shape[features]
                total += 2 * equation.outvars[0].aval.size * each
            case "scan":
                total += equation.params["length"] * count(equation.params["jaxpr"])
            case "while":
                total += _rounds(equation) * count(equation.params["body_jaxpr"])
            case "shard_map":  # what each device does
                total += equation.params["mesh"].size * count(equation.params["jaxpr"])
            case "cond":
                total += max(count(branch) for branch in equation.params["branches"])
            case _:
                total += sum(
                    count(value)
                    for value in equation.params.values()
                    if hasattr(getattr(value, "jaxpr", value), "eqns")
                )
    return total


def _rounds(equation) -> int:
    """Returns how often the loop of a `fori_loop` between numbers goes round, else 1."""
    params = equation.params
    skipped = params["cond_nconsts"] + params["body_nconsts"]
    state = equation.invars[skipped:]
    condition = params["cond_jaxpr"].jaxpr
    counted = condition.invars[params["cond_nconsts"] :]
    for test in condition.eqns:
        if test.primitive.name == "lt":
            ends = [
                operand if hasattr(operand, "val") else state[counted.index(operand)]
                for operand in test.invars
                if hasattr(operand, "val") or operand in counted
            ]
            if len(ends) == 2 and all(hasattr(end, "val") for end in ends):
                return int(ends[1].val) - int(ends[0].val)
    return 1


def _of(function, *inputs) -> int:
    """Returns the operations of a function on one device: on a mesh some are done several times."""
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        return count(jax.jit(function).trace(*inputs).jaxpr)


def _patch_embedding(tower: dict, video) -> int:
    """Returns the operations that turn the frames [V, K, H, W, 3] into tokens."""
    kernel = tower["conv2"] if "conv2" in tower else tower["conv1"]["kernel"]
    values, _ = tower["conv1"]["kernel"].shape  # of a patch
    return 2 * (math.prod(video.shape) // values) * kernel.size
