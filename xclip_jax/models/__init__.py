"""Building a model from plain numbers: `create` for its shape, `init` for fresh parameters."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from xclip_jax.models.clip import ARCHS, create_clip
from xclip_jax.models.similarity import AGGREGATIONS, CONTRASTS, TEMPERATURE
from xclip_jax.models.temporal import HEADS, create_temporal
from xclip_jax.models.xclip import XCLIP

__all__ = ["ARCHS", "create", "init"]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def create(name: str, **sizes):
    """Returns (graphdef, abstract params): `nnx.merge(graphdef, params)` has the three verbs.

    Args:
      name: `xclip`.
      **sizes: `embed_dim image_size patch_size vision_layers vision_width text_width text_layers
        context_length vocab_size max_words max_frames temporal_layers head linear_patch` and the
        options of `XCLIP`; see `_xclip` for their defaults.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: _build(name, jax.random.key(0), sizes)))
    return graphdef, nnx.to_pure_dict(state)


def init(key: jax.Array, name: str, **sizes) -> dict:
    """Returns fresh parameters for the model of `create(name, **sizes)`."""
    return nnx.to_pure_dict(nnx.split(_build(name, key, sizes))[1])


def _build(name: str, key: jax.Array, sizes: dict) -> nnx.Module:
    builders = {"xclip": _xclip}
    if name not in builders:
        raise ValueError(
            f"model {name!r} is unknown: set config.model.name to one of {sorted(builders)}."
        )
    return builders[name](nnx.Rngs(key), **sizes)


def _xclip(
    rngs: nnx.Rngs,
    *,
    embed_dim: int,
    image_size: int,
    patch_size: int,
    vision_layers: int,
    vision_width: int,
    text_width: int,
    text_layers: int,
    context_length: int,
    vocab_size: int,
    max_words: int,
    max_frames: int,
    temporal_layers: int,
    head: str,
    linear_patch: str = "2d",
    contrasts: Sequence[str] = CONTRASTS,  # a list where the config comes from JSON
    aggregation: str = "aosm",
    temperature: float = TEMPERATURE,
    learned_mixing: bool = True,
    mask_padding: bool = False,
    dtype: str = "float32",
    remat: bool = False,
) -> XCLIP:
    contrasts = tuple(contrasts)
    checks = {
        f"head={head!r} is not one of {HEADS}": head in HEADS,
        f"linear_patch={linear_patch!r} is not '2d' or '3d'": linear_patch in ("2d", "3d"),
        f"contrasts={contrasts} are not some of {CONTRASTS}": set(contrasts) <= set(CONTRASTS)
        and contrasts,
        f"aggregation={aggregation!r} is not one of {AGGREGATIONS}": aggregation in AGGREGATIONS,
        f"dtype={dtype!r} is not one of {tuple(DTYPES)}": dtype in DTYPES,
        f"temperature={temperature} is not positive": temperature > 0,
        f"max_words={max_words} exceeds context_length={context_length}": max_words
        <= context_length,
        f"max_frames={max_frames} exceeds the {context_length} frame positions": max_frames
        <= context_length,
        f"vision_width={vision_width}, text_width={text_width} and embed_dim={embed_dim} must be"
        " multiples of 64, the width of a head": not any(
            n % 64 for n in (vision_width, text_width, embed_dim)
        ),
    }
    if wrong := [message for message, right in checks.items() if not right]:
        raise ValueError("config.model: " + "; ".join(wrong) + ".")
    compute = {"dtype": DTYPES[dtype], "remat": remat, "rngs": rngs}
    clip = create_clip(
        embed_dim=embed_dim,
        image_size=image_size,
        patch_size=patch_size,
        vision_layers=vision_layers,
        vision_width=vision_width,
        text_width=text_width,
        text_layers=text_layers,
        context_length=context_length,
        vocab_size=vocab_size,
        linear_patch=linear_patch,
        **compute,
    )
    temporal = create_temporal(
        head, embed_dim, positions=context_length, layers=temporal_layers, **compute
    )
    return XCLIP(
        clip,
        temporal,
        embed_dim=embed_dim,
        max_words=max_words,
        max_frames=max_frames,
        contrasts=contrasts,
        aggregation=aggregation,
        temperature=temperature,
        learned_mixing=learned_mixing,
        mask_padding=mask_padding,
    )
