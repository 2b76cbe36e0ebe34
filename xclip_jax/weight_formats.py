"""Recognises a weight file by the names in it, and gives its arrays the references' names.

It knows OpenAI's CLIP, open_clip, Hugging Face's `CLIPModel`, and what the releases of X-CLIP,
CLIP4Clip and CLIP2Video save after training.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xclip_jax import hugging_face, torch_file
from xclip_jax.models import ARCHS
from xclip_jax.models.sizes import ACTIVATIONS
from xclip_jax.torch_file import Stored, Weights

# OpenAI's files, whose address has the checksum in it (SPEC 1.6).
OPENAI_URL = "https://openaipublic.azureedge.net/clip/models/{sha256}/{name}"
OPENAI_FILES = {
    "ViT-B-32.pt": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B-16.pt": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L-14.pt": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
}
SUPPORTED = (
    "known are OpenAI's CLIP, open_clip, Hugging Face's CLIPModel, X-CLIP, CLIP4Clip and CLIP2Video"
)
_SCALARS = ("input_resolution", "context_length", "vocab_size")  # only OpenAI's own files have them
_FROM = {  # the arrays that tell CLIP's sizes, and how many axes they have
    "clip.visual.conv1.weight": 4,
    "clip.visual.positional_embedding": 2,
    "clip.visual.proj": 2,
    "clip.token_embedding.weight": 2,
    "clip.positional_embedding": 2,
}
# Of open_clip's larger towers the heads are 80, 88 and 104 wide; CLIP's, and ours, are 64.
_OTHER_HEADS = (1280, 1408, 1664)


class Found(NamedTuple):
    """What a weight file turned out to be.

    Attributes:
      what: for people.
      model: `xclip`, `clip4clip` or `clip2video`; None for a CLIP.
      sizes: keywords of `models.create`, as far as the file tells; `activation` may be None, where
        nothing tells it.
      state: the arrays by the references' names, those of CLIP under `clip.`.
    """

    what: str
    model: str | None
    sizes: dict
    state: dict[str, Stored]


def recognise(path: Path | str) -> Found:
    """Returns what a weight file is; raises ValueError where it is none that is known."""
    path = Path(path)
    weights = torch_file.read(path)
    check_released(path, weights)
    arrays = _without_prefix(weights.arrays, "module.")  # of DistributedDataParallel
    if hugging_face.RECOGNISED_BY in arrays:
        system, model = "Hugging Face CLIP", None
        state = _below_clip(hugging_face.from_hugging_face(arrays))
    elif "clip.visual.conv1.weight" in arrays:
        model = _retrieval_model(arrays)
        system, state = (
            {"xclip": "X-CLIP", "clip4clip": "CLIP4Clip"}.get(model, "CLIP2Video"),
            arrays,
        )
    elif "visual.conv1.weight" in arrays and "visual.proj" in arrays:
        model, state = None, _below_clip(arrays)
        system = "OpenAI CLIP" if _is_openai(weights) else "CLIP with OpenAI's names (open_clip?)"
    elif "visual.layer1.0.conv1.weight" in arrays:
        raise ValueError(f"{path} is a CLIP with a ResNet, of which only ViTs are known here.")
    else:
        names = ", ".join(list(arrays)[:3])
        raise ValueError(f"{path} is no model that is known: {SUPPORTED}; this has {names}, ...")
    sizes = _clip_sizes(path, state)
    sizes["activation"] = "quick_gelu" if model else _activation(path, weights, sizes)
    if model:
        sizes |= _retrieval_sizes(model, state)
    types = sorted({str(stored.dtype) for stored in state.values() if stored.dtype.kind != "i"})
    containers = {"torchscript": "TorchScript archive", "pickle": "PyTorch state dict"}
    container = containers.get(weights.kind, weights.kind)
    what = f"{system}, {name_of(sizes)} ({container}, {', '.join(types)})"
    return Found(what, model, sizes, state)


def check_released(path: Path, weights: Weights) -> None:
    """Raises ValueError where a file with the name of one of OpenAI's is not that file."""
    expected = OPENAI_FILES.get(path.name)
    if expected is None or weights.kind != "torchscript":
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} is not OpenAI's {path.name}: its sha256 is {found}, expected {expected};"
            " download it again, or give a file of yours another name."
        )


def name_of(sizes: dict) -> str:
    """Returns what people call a CLIP of these sizes."""
    for arch, known in ARCHS.items():
        if all(sizes[key] == value for key, value in known.items()):
            return arch.replace("vit_", "ViT-").replace("b", "B/").replace("l", "L/")
    return (
        f"ViT of {sizes['vision_layers']} layers of {sizes['vision_width']}, patches of"
        f" {sizes['patch_size']}, {sizes['image_size']} pixels"
    )


def _without_prefix(arrays: dict[str, Stored], prefix: str) -> dict[str, Stored]:
    if not all(name.startswith(prefix) for name in arrays):
        return arrays
    return {name.removeprefix(prefix): stored for name, stored in arrays.items()}


def _below_clip(arrays: dict[str, Stored]) -> dict[str, Stored]:
    return {f"clip.{name}": stored for name, stored in arrays.items()}


def _is_openai(weights: Weights) -> bool:
    return weights.kind == "torchscript" or all(name in weights.arrays for name in _SCALARS)


def _layers(state: dict[str, Stored], stack: str) -> int:
    pattern = re.compile(re.escape(stack) + r"\.resblocks\.(\d+)\.")
    return len({match[1] for name in state if (match := pattern.match(name))})


def _clip_sizes(path: Path, state: dict[str, Stored]) -> dict:
    """Returns the sizes of CLIP, read off the shapes (SPEC 1.6)."""
    wrong = [name for name, axes in _FROM.items() if len(_shape(state, name)) != axes]
    if wrong:
        raise ValueError(f"{path} is not a whole CLIP: {', '.join(wrong)} missing or misshapen.")
    width, _, _, patch = state["clip.visual.conv1.weight"].shape
    tokens = state["clip.visual.positional_embedding"].shape[0]
    grid = round((tokens - 1) ** 0.5)
    if grid**2 != tokens - 1:
        raise ValueError(f"{path} has {tokens - 1} patches, which make no square image.")
    if width in _OTHER_HEADS:
        raise ValueError(
            f"{path} has an image tower of width {width}, whose heads are not 64 wide as CLIP's"
            " are: models of that size are not known here."
        )
    vocab_size, text_width = state["clip.token_embedding.weight"].shape
    return {
        "embed_dim": state["clip.visual.proj"].shape[1],
        "image_size": grid * patch,
        "patch_size": patch,
        "vision_layers": _layers(state, "clip.visual.transformer"),
        "vision_width": width,
        "text_width": text_width,
        "text_layers": _layers(state, "clip.transformer"),
        "context_length": state["clip.positional_embedding"].shape[0],
        "vocab_size": vocab_size,
    }


def _activation(path: Path, weights: Weights, sizes: dict) -> str | None:
    """Returns the activation of a CLIP, or None where nothing in or beside the file tells it.

    The arrays do not: OpenAI's models have QuickGELU, most of open_clip's the exact GELU.
    """
    if "activation" in weights.metadata:  # as `xclip-jax export` writes it
        return _known_activation(path, weights.metadata["activation"])
    if "quickgelu" in path.name.lower() or _is_openai(weights):
        return "quick_gelu"
    facts = path.with_name("config.json")
    if hugging_face.RECOGNISED_BY in weights.arrays and facts.is_file():
        towers = {key: _json(facts).get(key) or {} for key in ("text_config", "vision_config")}
        wide = {"text_config": sizes["text_width"], "vision_config": sizes["vision_width"]}
        for key, tower in towers.items():
            heads = tower.get("num_attention_heads", wide[key] // 64)
            if heads * 64 != wide[key] or tower.get("layer_norm_eps", 1e-5) != 1e-5:
                raise ValueError(f"{facts}: {key} has heads or a norm other than CLIP's.")
        named = {tower.get("hidden_act", "quick_gelu") for tower in towers.values()}
        if len(named) > 1:
            raise ValueError(f"{facts} has two activations, {sorted(named)}; expected one.")
        return _known_activation(facts, named.pop())
    facts = path.with_name("open_clip_config.json")
    if hugging_face.RECOGNISED_BY not in weights.arrays and facts.is_file():
        return "quick_gelu" if _json(facts).get("model_cfg", {}).get("quick_gelu") else "gelu"
    return None


def _known_activation(source: Path, name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"{source} names the activation {name!r}; expected one of {ACTIVATIONS}.")
    return name


def _json(file: Path) -> dict:
    try:
        facts = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}.") from None
    return facts if isinstance(facts, dict) else {}


def _shape(state: dict[str, Stored], name: str) -> tuple[int, ...]:
    return state[name].shape if name in state else ()


def _retrieval_model(arrays: dict[str, Stored]) -> str:
    if "global_mat_weight" in arrays:
        return "xclip"
    return "clip2video" if "trans_layernorm.weight" in arrays else "clip4clip"


def _retrieval_sizes(model: str, state: dict[str, Stored]) -> dict:
    """Returns the sizes and options of what stands on CLIP (SPEC 3.1, 4, 5.1)."""
    stacks = {"transformerClip": "seqTransf", "cross.transformer": "tightTransf"}
    found = {name: _layers(state, stack) for stack, name in stacks.items()}
    head = next((name for name, layers in found.items() if layers), "meanP")
    if "lstm_visual.weight_hh_l0" in state:
        head = "seqLSTM"
    sizes = {"head": head, "temporal_layers": found.get(head) or 4}
    if "clip.visual.conv2.weight" in state:
        sizes["linear_patch"] = "3d"
    if model == "xclip":
        sizes["max_words"] = int(np.prod(_shape(state, "word_mat_weight")[:1]))
        sizes["max_frames"] = int(np.prod(_shape(state, "frame_mat_weight")[:1]))
    if model == "clip2video":
        sizes |= _clip2video_options(state)
    return sizes


def _clip2video_options(state: dict[str, Stored]) -> dict:
    attends = _layers(state, "frame2t_attention") > 0
    difference = "sigmoid_selfA" if attends else "plain"
    if "frame2t_projection" in state:
        difference = "sigmoid_mlp"
    if "type_position_embeddings.weight" not in state:
        difference = "none"
    if "weight_center" not in state:
        return {"difference": difference, "alignment": "none"}
    # The weights are the same for TAB and TAB_TDB; the released configuration is the latter.
    alignment = "TAB" if difference == "none" else "TAB_TDB"
    if not _layers(state, "actionClip"):
        alignment = "plain"
    centers = _shape(state, "weight_center")[0]
    return {"difference": difference, "alignment": alignment, "centers": centers}
