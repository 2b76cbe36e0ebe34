"""Names and shapes both ways between the references' PyTorch state dicts and our parameters.

One table of rules serves both directions: a parameter's path gives its torch name (with {} for the
layer of a stacked one) and how its axes are laid out there. NumPy in, NumPy out; no torch.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

# What a state dict may hold beside the parameters of the model, and why it is not needed.
DROPPABLE = re.compile(
    r"(clip\.)?(input_resolution|context_length|vocab_size)$"  # sizes, not weights
    r"|position_ids$"  # an index buffer
    r"|attn_mask$"  # the causal mask
    r"|^trans_layernorm\.(weight|bias)$"  # CLIP2Video always has it; projected differences read it
)
# The references build the LSTM head with a table of frame positions that nothing reads.
UNUSED_IN_LSTM = "frame_position_embeddings.weight"
_POSITIONS = "clip.positional_embedding"

_SAME, _TRANSPOSED, _PATCHES = "same", "transposed", "patches"
# (path of ours, torch name, layout); a path below "blocks" is stacked over the layers {}.
_RULES = [
    (r"clip/logit_scale", "clip.logit_scale", _SAME),
    (r"clip/visual/conv1/kernel", "clip.visual.conv1.weight", _PATCHES),
    (r"clip/visual/conv2", "clip.visual.conv2.weight", _PATCHES),
    (r"clip/visual/(class_embedding|positional_embedding|proj)", r"clip.visual.\1", _SAME),
    (r"clip/visual/(ln_pre|ln_post)/scale", r"clip.visual.\1.weight", _SAME),
    (r"clip/visual/(ln_pre|ln_post)/bias", r"clip.visual.\1.bias", _SAME),
    (r"clip/text/token_embedding/embedding", "clip.token_embedding.weight", _SAME),
    (r"clip/text/(positional_embedding|text_projection)", r"clip.\1", _SAME),
    (r"clip/text/ln_final/scale", "clip.ln_final.weight", _SAME),
    (r"clip/text/ln_final/bias", "clip.ln_final.bias", _SAME),
    (r"(?:temporal/)?frame_position_embeddings", "frame_position_embeddings.weight", _SAME),
    (r"temporal/(ih|hh)/kernel", r"lstm_visual.weight_\1_l0", _TRANSPOSED),
    (r"temporal/(ih|hh)/bias", r"lstm_visual.bias_\1_l0", _SAME),
    (r"difference/type_position_embeddings", "type_position_embeddings.weight", _SAME),
    (r"difference/proj", "frame2t_projection", _SAME),
    (r"difference/layer_norm/scale", "trans_layernorm.weight", _SAME),
    (r"difference/layer_norm/bias", "trans_layernorm.bias", _SAME),
    (r"centers/(weight_center|emb_center)", r"\1", _SAME),
    (r"cross/position_embeddings", "cross.embeddings.position_embeddings.weight", _SAME),
    (r"cross/ln_pool/scale", "cross.pooler.ln_pool.weight", _SAME),
    (r"cross/ln_pool/bias", "cross.pooler.ln_pool.bias", _SAME),
    (r"cross/dense/kernel", "cross.pooler.dense.weight", _TRANSPOSED),
    (r"cross/dense/bias", "cross.pooler.dense.bias", _SAME),
    (r"similarity_dense/kernel", "similarity_dense.weight", _TRANSPOSED),
    (r"similarity_dense/bias", "similarity_dense.bias", _SAME),
    (r"((?:global|local|word|frame)_(?:logit|mat)_weight2?)", r"\1", _SAME),
]
_STACKS = {
    "clip/visual/transformer": "clip.visual.transformer",
    "clip/text/transformer": "clip.transformer",
    "temporal/transformer": "transformerClip",
    "cross/transformer": "cross.transformer",
    "difference/attention/transformer": "frame2t_attention",
    "action/transformer": "actionClip",
}
_IN_BLOCK = {
    "ln_1/scale": ("ln_1.weight", _SAME),
    "ln_1/bias": ("ln_1.bias", _SAME),
    "in_proj/kernel": ("attn.in_proj_weight", _TRANSPOSED),
    "in_proj/bias": ("attn.in_proj_bias", _SAME),
    "out_proj/kernel": ("attn.out_proj.weight", _TRANSPOSED),
    "out_proj/bias": ("attn.out_proj.bias", _SAME),
    "ln_2/scale": ("ln_2.weight", _SAME),
    "ln_2/bias": ("ln_2.bias", _SAME),
    "c_fc/kernel": ("mlp.c_fc.weight", _TRANSPOSED),
    "c_fc/bias": ("mlp.c_fc.bias", _SAME),
    "c_proj/kernel": ("mlp.c_proj.weight", _TRANSPOSED),
    "c_proj/bias": ("mlp.c_proj.bias", _SAME),
}
_RULES += [
    (f"{ours}/blocks/{leaf}", f"{theirs}.resblocks.{{}}.{name}", layout)
    for ours, theirs in _STACKS.items()
    for leaf, (name, layout) in _IN_BLOCK.items()
]


def from_torch(state_dict: Mapping[str, np.ndarray], model) -> dict:
    """Returns the parameters of `model` (what `models.create` returned) in float32.

    Arrays are read, widened and laid out one by one, so that they may be lazy (`torch_file`).
    Strict: raises one ValueError that lists every missing, unknown and misshapen key.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(model[1])
    parameters = [_place(path, leaf) for path, leaf in leaves]
    used = {name for parameter in parameters for name in parameter.names}
    problems = _misfits(state_dict, parameters)
    droppable = {name for name in state_dict if DROPPABLE.search(name)}
    if any(name.startswith("lstm_visual.") for name in used):
        droppable.add(UNUSED_IN_LSTM)
    problems += [f"{name} is unknown" for name in sorted(set(state_dict) - used - droppable)]
    _raise(problems)
    params = [_read(state_dict, parameter) for parameter in parameters]
    return jax.tree_util.tree_unflatten(structure, params)


def from_clip(clip: Mapping[str, np.ndarray], model) -> dict:
    """Returns the parameters that `model` starts with from a CLIP; None where CLIP has nothing.

    `clip` has the references' names. The temporal encoders start as copies of CLIP's text blocks
    and positions, a 3d patch as CLIP's 2d patch on the middle frame (SPEC 7.2). Strict as above.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(model[1])
    parameters = [_place(path, leaf) for path, leaf in leaves]
    state_dict = dict(clip)
    for name in (name for parameter in parameters for name in parameter.names):
        if name not in state_dict and (source := _copied_from(name)) in clip:
            state_dict[name] = _start(name, clip[source])
    fed = [p for p in parameters if p.names[0].startswith("clip.") or _copied_from(p.names[0])]
    used = {name for parameter in fed for name in parameter.names}
    unknown = {name for name in clip if name not in used and not DROPPABLE.search(name)}
    _raise(_misfits(state_dict, fed) + [f"{name} is unknown" for name in sorted(unknown)])
    params = [_read(state_dict, p) if p in fed else None for p in parameters]
    return jax.tree_util.tree_unflatten(structure, params)


def to_torch(params: dict, model) -> dict[str, np.ndarray]:
    """Returns the state dict, in the references' names and layouts, of `params`.

    Any tree shaped like the parameters will do: gradients, for one.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(model[1])
    state_dict = {}
    for (path, leaf), value in zip(leaves, jax.tree.leaves(params), strict=True):
        parameter = _place(path, leaf)
        layers = np.asarray(value) if parameter.stacked else np.asarray(value)[None]
        for name, layer in zip(parameter.names, layers, strict=True):
            state_dict[name] = np.array(_to_torch(layer, parameter.layout), order="C")
    return state_dict


class _Parameter(NamedTuple):
    """A parameter of ours: its torch names (one a layer), how it is laid out there, its shape."""

    names: tuple[str, ...]
    layout: str
    stacked: bool
    shape: tuple[int, ...]


def _place(path, leaf) -> _Parameter:
    ours = "/".join(str(key.key) for key in path)
    for pattern, name, layout in _RULES:
        if match := re.fullmatch(pattern, ours):
            name, stacked = match.expand(name), "{}" in name
            layers = range(leaf.shape[0]) if stacked else [0]
            return _Parameter(tuple(name.format(i) for i in layers), layout, stacked, leaf.shape)
    raise AssertionError(f"no torch name for parameter {ours}: add it to _RULES")


def _misfits(state_dict: Mapping[str, np.ndarray], parameters: list[_Parameter]) -> list[str]:
    problems = []
    for parameter in parameters:
        shape = parameter.shape[1:] if parameter.stacked else parameter.shape
        # A view of one element: only the shape is asked for.
        expected = _to_torch(np.broadcast_to(np.False_, shape), parameter.layout).shape
        for name in parameter.names:
            if name not in state_dict:
                problems.append(f"{name} is missing")
            elif (given := np.shape(state_dict[name])) != expected:
                problems.append(f"{name} has shape {given}, this model expects {expected}")
    return problems


def _raise(problems: list[str]) -> None:
    if problems:
        shown = "\n  ".join(problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"{len(problems)} keys do not fit this model:\n  {shown}{more}")


def _read(state_dict: Mapping[str, np.ndarray], parameter: _Parameter) -> np.ndarray:
    if not parameter.stacked:
        array = np.asarray(state_dict[parameter.names[0]])
        return np.array(_to_ours(array, parameter.layout), np.float32, order="C")
    stack = np.empty(parameter.shape, np.float32)
    for i, name in enumerate(parameter.names):
        stack[i] = _to_ours(np.asarray(state_dict[name]), parameter.layout)
    return stack


# What starts as a copy of CLIP's own, and of what (SPEC 7.2, 5.1).
_COPIES = [
    (r"(?:frame_position_embeddings|cross\.embeddings\.position_embeddings)\.weight", _POSITIONS),
    (r"type_position_embeddings\.weight", _POSITIONS),
    (
        r"(?:transformerClip|cross\.transformer|frame2t_attention|actionClip)(\.resblocks\..*)",
        r"clip.transformer\1",
    ),
    (r"frame2t_projection", "clip.visual.proj"),
    (r"clip\.visual\.conv2\.weight", "clip.visual.conv1.weight"),
]


def _copied_from(name: str) -> str | None:
    for pattern, source in _COPIES:
        if match := re.fullmatch(pattern, name):
            return match.expand(source)
    return None


def _start(name: str, source: np.ndarray) -> np.ndarray:
    """Returns the value at which a parameter starts from what it copies."""
    match name:
        case "type_position_embeddings.weight":
            return np.asarray(source)[:2]
        case "frame2t_projection":
            array = np.asarray(source)
            return array[: array.shape[1]]
        case "clip.visual.conv2.weight":
            array = np.asarray(source)
            return np.stack([0 * array, array, 0 * array], axis=2)
    return source


def _to_ours(array: np.ndarray, layout: str) -> np.ndarray:
    if layout == _TRANSPOSED:
        return array.T
    if layout == _PATCHES:  # [D, 3, .., p, p] -> [.., p*p*3, D]
        *depth, patch, _ = array.shape[2:]
        x = np.moveaxis(array, (0, 1), (-1, -2))
        return x.reshape(*depth, 3 * patch**2, len(array))
    return array


def _to_torch(array: np.ndarray, layout: str) -> np.ndarray:
    if layout == _TRANSPOSED:
        return array.T
    if layout == _PATCHES:
        *depth, values, width = array.shape
        patch = int((values // 3) ** 0.5)
        return np.moveaxis(array.reshape(*depth, patch, patch, 3, width), (-1, -2), (0, 1))
    return array
