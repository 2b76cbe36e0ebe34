"""Building a model from plain numbers: `create` for its shape, `init` for fresh parameters."""

import inspect
from collections.abc import Sequence

import jax
from flax import nnx

from xclip_jax.models.clip import ARCHS, CLIP, create_clip
from xclip_jax.models.similarity import AGGREGATIONS, CONTRASTS, TEMPERATURE
from xclip_jax.models.sizes import DTYPES, Sizes, check
from xclip_jax.models.temporal import HEADS, create_temporal
from xclip_jax.models.xclip import XCLIP

__all__ = ["ARCHS", "create", "init"]


def create(name: str, **sizes):
    """Returns (graphdef, abstract params): `nnx.merge(graphdef, params)` has the four verbs.

    Those are `encode_text`, `encode_video`, `similarity` and, for training, `loss`;
    `pair_floats` says how much memory a score takes.

    Args:
      name: `xclip`.
      **sizes: those of `Sizes` and the model's options, the keywords of its builder below.
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
    options = {key: value for key, value in sizes.items() if key not in Sizes._fields}
    known = inspect.signature(builders[name]).parameters
    if unknown := sorted(options.keys() - known.keys()):
        raise ValueError(
            f"config.model: {name} has no {', '.join(unknown)}; choose the model behind the"
            f" colon, --config NAME:model={name}, and only options of its own."
        )
    shared = Sizes(**{key: value for key, value in sizes.items() if key in Sizes._fields})
    return builders[name](nnx.Rngs(key), shared, **options)


def _clip(rngs: nnx.Rngs, sizes: Sizes) -> CLIP:
    same = ("dtype", "max_words", "max_frames", "temporal_layers", "head")
    rest = {key: value for key, value in sizes._asdict().items() if key not in same}
    return create_clip(**rest, dtype=DTYPES[sizes.dtype], rngs=rngs)


def _temporal(rngs: nnx.Rngs, sizes: Sizes):
    return create_temporal(
        sizes.head,
        sizes.embed_dim,
        positions=sizes.context_length,
        layers=sizes.temporal_layers,
        dtype=DTYPES[sizes.dtype],
        remat=sizes.remat,
        rngs=rngs,
    )


def _xclip(
    rngs: nnx.Rngs,
    sizes: Sizes,
    *,
    contrasts: Sequence[str] = CONTRASTS,  # a list where the config comes from JSON
    aggregation: str = "aosm",
    temperature: float = TEMPERATURE,
    learned_mixing: bool = True,
    mask_padding: bool = False,
) -> XCLIP:
    contrasts = tuple(contrasts)
    options = {
        f"contrasts={contrasts} are not some of {CONTRASTS}": set(contrasts) <= set(CONTRASTS)
        and bool(contrasts),
        f"aggregation={aggregation!r} is not one of {AGGREGATIONS}": aggregation in AGGREGATIONS,
        f"temperature={temperature} is not positive": temperature > 0,
    }
    check(sizes, HEADS, options)
    return XCLIP(
        _clip(rngs, sizes),
        _temporal(rngs, sizes),
        embed_dim=sizes.embed_dim,
        max_words=sizes.max_words,
        max_frames=sizes.max_frames,
        contrasts=contrasts,
        aggregation=aggregation,
        temperature=temperature,
        learned_mixing=learned_mixing,
        mask_padding=mask_padding,
    )
