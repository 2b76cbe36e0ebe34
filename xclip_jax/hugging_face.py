"""Names of Hugging Face's `CLIPModel`, both ways between them and the references'.

There q, k and v are three layers and the projections are layers too, that is transposed.
"""

import re
from collections.abc import Mapping

import numpy as np

from xclip_jax.torch_file import Stored

RECOGNISED_BY = "text_model.embeddings.token_embedding.weight"
_NAMES = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # spelled so there
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_PROJECTIONS = {
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
}
_STACKS = {
    "text_model.encoder.layers": "transformer.resblocks",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
}
_PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_LAYER = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_BLOCK = re.compile(r"(transformer|visual\.transformer)\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


def from_hugging_face(arrays: Mapping[str, Stored]) -> dict[str, Stored]:
    """Returns the arrays of a `CLIPModel` by the names of OpenAI's CLIP; others keep theirs."""
    state: dict[str, Stored] = {}
    for name, stored in arrays.items():
        match = _LAYER.fullmatch(name)
        if name.endswith("position_ids"):
            continue  # an index buffer of older versions
        if name in _NAMES:
            state[_NAMES[name]] = stored
        elif name in _PROJECTIONS:
            state[_PROJECTIONS[name]] = _transposed(stored)
        elif match and match[3] in _PARTS:
            stack = _STACKS[f"{match[1]}.encoder.layers"]
            state[f"{stack}.{match[2]}.{_PARTS[match[3]]}.{match[4]}"] = stored
        elif match and match[3] == "self_attn.q_proj":
            three = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
            if all(part in arrays for part in three):
                stack = _STACKS[f"{match[1]}.encoder.layers"]
                fused = _joined([arrays[part] for part in three])
                state[f"{stack}.{match[2]}.attn.in_proj_{match[4]}"] = fused
        elif not (match and match[3] in ("self_attn.k_proj", "self_attn.v_proj")):
            state[name] = stored
    return state


def to_hugging_face(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns OpenAI's CLIP, all of its arrays and nothing else, by the names of a `CLIPModel`."""
    names = {ours: theirs for theirs, ours in _NAMES.items()}
    projections = {ours: theirs for theirs, ours in _PROJECTIONS.items()}
    stacks = {ours: theirs for theirs, ours in _STACKS.items()}
    parts = {ours: theirs for theirs, ours in _PARTS.items()}
    arrays: dict[str, np.ndarray] = {}
    for name, array in state.items():
        if name in names:
            arrays[names[name]] = array
        elif name in projections:
            arrays[projections[name]] = np.ascontiguousarray(array.T)
        else:
            tower, index, part, kind = _BLOCK.fullmatch(name).groups()
            layer = f"{stacks[f'{tower}.resblocks']}.{index}"
            if part == "attn.in_proj":
                for letter, piece in zip("qkv", np.split(array, 3), strict=True):
                    arrays[f"{layer}.self_attn.{letter}_proj.{kind}"] = piece
            else:
                arrays[f"{layer}.{parts[part]}.{kind}"] = array
    return arrays


def config(sizes: Mapping[str, int], activation: str) -> dict:
    """Returns the config.json by which `CLIPModel.from_pretrained` builds a CLIP of these sizes."""
    start, end = sizes["vocab_size"] - 2, sizes["vocab_size"] - 1

    def tower(width: int, layers: int) -> dict:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "hidden_act": activation,
            "layer_norm_eps": 1e-5,
            "projection_dim": sizes["embed_dim"],
        }

    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": sizes["embed_dim"],
        "text_config": tower(sizes["text_width"], sizes["text_layers"])
        | {
            "model_type": "clip_text_model",
            "vocab_size": sizes["vocab_size"],
            "max_position_embeddings": sizes["context_length"],
            "bos_token_id": start,
            "eos_token_id": end,
            "pad_token_id": 0,
        },
        "vision_config": tower(sizes["vision_width"], sizes["vision_layers"])
        | {
            "model_type": "clip_vision_model",
            "image_size": sizes["image_size"],
            "patch_size": sizes["patch_size"],
        },
    }


def _transposed(stored: Stored) -> Stored:
    return Stored(stored.shape[::-1], stored.dtype, lambda: np.asarray(stored).T)


def _joined(parts: list[Stored]) -> Stored:
    """Returns the arrays one below the other, read when asked for."""
    rows = sum(part.shape[0] for part in parts)
    shape = (rows, *parts[0].shape[1:])
    return Stored(shape, parts[0].dtype, lambda: np.concatenate([np.asarray(p) for p in parts]))
