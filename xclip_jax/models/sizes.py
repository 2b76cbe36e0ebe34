"""The sizes that every model has, and one error for all that is wrong with them."""

from typing import NamedTuple

import jax.numpy as jnp

ACTIVATIONS = ("quick_gelu", "gelu")  # OpenAI's, and the exact GELU of most of open_clip's models
# What the way back finds of each block: everything; its matrix products, from which norms,
# activations and attention weights are computed again; or its input alone.
REMAT = ("none", "dots", "full")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Sizes(NamedTuple):
    """Plain numbers by which CLIP and what stands on it are built."""

    embed_dim: int
    image_size: int
    patch_size: int
    vision_layers: int
    vision_width: int
    text_width: int
    text_layers: int
    context_length: int
    vocab_size: int
    max_words: int
    max_frames: int
    temporal_layers: int
    head: str
    linear_patch: str = "2d"
    activation: str = "quick_gelu"
    dtype: str = "float32"
    remat: str = "dots"


def check(sizes: Sizes, heads: tuple[str, ...], options: dict[str, bool]) -> None:
    """Raises one ValueError with all that is wrong.

    Args:
      heads: the model's own.
      options: what is wrong with a model's own options -> whether it is right after all.
    """
    head, context = sizes.head, sizes.context_length
    widths = {key: getattr(sizes, key) for key in ("vision_width", "text_width", "embed_dim")}
    checks = {
        f"head={head!r} is not one of {heads}": head in heads,
        f"linear_patch={sizes.linear_patch!r} is not '2d' or '3d'": sizes.linear_patch
        in ("2d", "3d"),
        f"activation={sizes.activation!r} is not one of {ACTIVATIONS}": sizes.activation
        in ACTIVATIONS,
        f"dtype={sizes.dtype!r} is not one of {tuple(DTYPES)}": sizes.dtype in DTYPES,
        f"remat={sizes.remat!r} is not one of {REMAT}": sizes.remat in REMAT,
        f"max_words={sizes.max_words} exceeds context_length={context}": sizes.max_words <= context,
        f"max_frames={sizes.max_frames} exceeds the {context} frame positions": sizes.max_frames
        <= context,
        ", ".join(f"{key}={width}" for key, width in widths.items())
        + " must be multiples of 64, the width of a head": not any(
            width % 64 for width in widths.values()
        ),
    }
    if wrong := [message for message, right in (checks | options).items() if not right]:
        raise ValueError("config.model: " + "; ".join(wrong) + ".")
