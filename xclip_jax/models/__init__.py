"""Building a model from plain numbers: `create` for its shape, `init` for fresh parameters."""

import inspect
from collections.abc import Sequence

import jax
from flax import nnx

from xclip_jax.models import clip2video
from xclip_jax.models.clip import ARCHS, CLIP, create_clip
from xclip_jax.models.clip4clip import CLIP4Clip, TightCLIP4Clip
from xclip_jax.models.cross import CrossEncoder
from xclip_jax.models.similarity import AGGREGATIONS, CONTRASTS, TEMPERATURE
from xclip_jax.models.sizes import DTYPES, Sizes, check
from xclip_jax.models.temporal import HEADS, create_temporal
from xclip_jax.models.temporal_blocks import DIFFERENCES
from xclip_jax.models.xclip import XCLIP
from xclip_jax.models.xclip_transformer import LAYERS, TransformerXCLIP

__all__ = ["ARCHS", "create", "init"]


def create(name: str, **sizes):
    """Returns (graphdef, abstract params): `nnx.merge(graphdef, params)` has the four verbs.

    Those are `encode_text`, `encode_video`, `similarity` and, for training, `loss`;
    `pair_floats` says how much memory a score takes.

    Args:
      name: `xclip`, `clip4clip` or `clip2video`.
      **sizes: those of `Sizes` and the model's options, the keywords of its builder below.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: _build(name, jax.random.key(0), sizes)))
    return graphdef, nnx.to_pure_dict(state)


def init(key: jax.Array, name: str, **sizes) -> dict:
    """Returns fresh parameters for the model of `create(name, **sizes)`."""
    return nnx.to_pure_dict(nnx.split(_build(name, key, sizes))[1])


def _build(name: str, key: jax.Array, sizes: dict) -> nnx.Module:
    builders = {"xclip": _xclip, "clip4clip": _clip4clip, "clip2video": _clip2video}
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


def _cross(rngs: nnx.Rngs, sizes: Sizes, *, layers: int) -> CrossEncoder:
    return CrossEncoder(
        sizes.embed_dim,
        positions=sizes.context_length,
        layers=layers,
        heads=sizes.embed_dim // 64,
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
) -> XCLIP | TransformerXCLIP:
    contrasts, tokens = tuple(contrasts), 2 + sizes.max_words + sizes.max_frames
    transformer = aggregation == "transformer"
    known = (*AGGREGATIONS, "transformer")
    options = {
        f"contrasts={contrasts} are not some of {CONTRASTS}": set(contrasts) <= set(CONTRASTS)
        and bool(contrasts),
        f"aggregation={aggregation!r} is not one of {known}": aggregation in known,
        f"contrasts={contrasts} beside aggregation='transformer', which reads all features at once:"
        " leave them as they are": not transformer or contrasts == CONTRASTS,
        f"aggregation='transformer' reads {tokens} tokens, more than context_length="
        f"{sizes.context_length}: lower data.max_words or data.max_frames": not transformer
        or tokens <= sizes.context_length,
        f"temperature={temperature} is not positive": temperature > 0,
    }
    check(sizes, HEADS, options)
    if transformer:
        clip, temporal = _clip(rngs, sizes), _temporal(rngs, sizes)
        cross = _cross(rngs, sizes, layers=LAYERS)
        return TransformerXCLIP(clip, temporal, cross, rngs=rngs)
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


def _clip4clip(
    rngs: nnx.Rngs, sizes: Sizes, *, negative_groups: int = 1
) -> CLIP4Clip | TightCLIP4Clip:
    tight = sizes.head == "tightTransf"
    options = {
        f"negative_groups={negative_groups} is not 1, or with head=tightTransf more": (
            negative_groups == 1 or (tight and negative_groups > 1)
        ),
        f"max_frames={sizes.max_frames} and the sentence exceed the {sizes.context_length}"
        " positions": not tight or sizes.max_frames < sizes.context_length,
    }
    check(sizes, (*HEADS, "tightTransf"), options)
    if not tight:
        return CLIP4Clip(_clip(rngs, sizes), _temporal(rngs, sizes))
    clip = _clip(rngs, sizes)
    cross = _cross(rngs, sizes, layers=sizes.temporal_layers)
    return TightCLIP4Clip(clip, cross, negative_groups=negative_groups, rngs=rngs)


def _clip2video(
    rngs: nnx.Rngs,
    sizes: Sizes,
    *,
    difference: str = "sigmoid_selfA",
    alignment: str = "TAB_TDB",
    centers: int = 5,
    center_weight: float = 0.5,
    tiled_mask_bug: bool = False,
) -> clip2video.CLIP2Video:
    released = sizes.head == "TAB_TDB"  # the released whole, by the name of its last block
    options = {
        f"difference={difference!r} is not one of {DIFFERENCES}": difference in DIFFERENCES,
        f"alignment={alignment!r} is not one of {clip2video.ALIGNMENTS}": alignment
        in clip2video.ALIGNMENTS,
        "alignment='TAB_TDB' needs a difference other than 'none'": difference != "none"
        or alignment != "TAB_TDB",
        f"alignment={alignment!r} is not what head='TAB_TDB' stands for: choose head='seqTransf'"
        " beside it": not released or alignment == "TAB_TDB",
        f"centers={centers} is not positive": centers > 0,
        f"center_weight={center_weight} is not within [0, 1]": 0 <= center_weight <= 1,
    }
    check(sizes, (*clip2video.HEADS, "TAB_TDB"), options)
    return clip2video.CLIP2Video(
        _clip(rngs, sizes),
        embed_dim=sizes.embed_dim,
        positions=sizes.context_length,
        layers=sizes.temporal_layers,
        head="seqTransf" if released else sizes.head,
        difference=difference,
        alignment=alignment,
        centers=centers,
        center_weight=center_weight,
        heads=sizes.embed_dim // 64,
        tiled_mask_bug=tiled_mask_bug,
        dtype=DTYPES[sizes.dtype],
        remat=sizes.remat,
        rngs=rngs,
    )
