"""Weights in and out: a weight file becomes a run's folder or a model's start, a run a file."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from xclip_jax import (
    checkpoint,
    config_loader,
    convert,
    frame_policy,
    hugging_face,
    models,
    resize_weights,
    tokenizer,
    weight_formats,
    workdir,
)
from xclip_jax.configs import common
from xclip_jax.models.similarity import CONTRASTS, TEMPERATURE
from xclip_jax.version import __version__
from xclip_jax.weight_formats import Found

_CLIP_SIZES = tuple(models.ARCHS["vit_b32"])
_SAY_ACTIVATION = (
    "its arrays do not tell whether it has QuickGELU or the exact GELU: add"
    " --config.model.activation=quick_gelu (OpenAI's weights, models named -quickgelu) or"
    " --config.model.activation=gelu (open_clip's other models)"
)


def import_file(file: Path | str, out: Path | str, overrides: Sequence[str] = ()) -> str:
    """Writes the folder of a run, at step 0, from a weight file; returns what was found in it.

    A CLIP becomes CLIP4Clip's meanP, which adds no weights to it.

    Args:
      overrides: `--config.KEY=VALUE`s, for what the file does not tell.
    """
    found = weight_formats.recognise(file)
    config = _config(found)
    config_loader.override(config, overrides)
    if config.model.activation is None:
        raise ValueError(f"{file}: {_SAY_ACTIVATION}.")
    vocab = tokenizer.find_vocab(config.data.vocab or None)
    sizes = workdir.model_sizes(config, tokenizer.load(vocab).vocab_size)
    model = models.create(config.model.name, **sizes)
    read = convert.from_torch if found.model else convert.from_clip
    params = resize_weights.fit(
        read(found.state, _at_home(config.model.name, sizes, found)),
        model[1],
        allow=config.init.resize,
        source=str(file),
    )
    checkpoint.save_weights(out, params)
    name = config.data.frame_policy or frame_policy.DEFAULT
    policy = {"name": name, "short_side": sizes["image_size"]}
    workdir.write(Path(out), config, vocab=vocab, frame_policy=policy, goes_on=False)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"{found.what}: {count:,} parameters, as {_describe(config)}"


def _config(found: Found):
    """Returns the config of what a file holds; what it does not tell stands at its default."""
    config = common.get_config(found.model or "clip4clip")
    sizes = {"head": "meanP"} | found.sizes
    same = [
        arch
        for arch, known in models.ARCHS.items()
        if all(sizes[key] == value for key, value in known.items())
    ]
    config.model.arch = same[0] if same else "custom"
    for key, value in sizes.items():
        if key in ("max_words", "max_frames"):
            config.data[key] = value
        elif not (same and key in _CLIP_SIZES):
            config.model[key] = value
    context = sizes["context_length"]
    config.data.max_words = min(config.data.max_words, context)
    config.data.max_frames = min(config.data.max_frames, context - 1)
    config.init.clip = ""
    return config.lock()


def _describe(config) -> str:
    options = {
        key: config.model[key]
        for key in ("head", "linear_patch", "activation", "difference", "alignment", "centers")
        if key in config.model
    }
    if config.model.head in ("seqTransf", "tightTransf"):
        options["temporal_layers"] = config.model.temporal_layers
    options |= {key: config.data[key] for key in ("max_words", "max_frames")}
    return f"{config.model.name}, " + ", ".join(f"{key}={value}" for key, value in options.items())


def find_activation(file: str) -> str:
    """Returns the activation of a CLIP's weight file; raises ValueError where nothing tells it."""
    if activation := weight_formats.recognise(file).sizes["activation"]:
        return activation
    raise ValueError(f"--from-clip {file}: {_SAY_ACTIVATION}.")


def start_from_clip(
    file: str, name: str, sizes: dict, fresh: dict, *, resize: Sequence[str]
) -> dict:
    """Returns fresh parameters with all in place that CLIP gives them (SPEC 7.2).

    Args:
      name, sizes: those by which `models.create` makes the model.
      fresh: its parameters as drawn, on their devices, where the new ones are put too.
      resize: sizes that may differ from the file's.
    """
    found = weight_formats.recognise(file)
    if found.model:
        raise ValueError(
            f"--from-clip {file} is no CLIP but {found.what}: use `xclip-jax convert`."
        )
    sizes = {"activation": "quick_gelu"} | sizes
    differing = [
        f"config.model.{key}={sizes[key]}, {found.sizes[key]} in the file"
        + (f"; --config.init.resize={key} fits it" if key in resize_weights.OPTIONS else "")
        for key in (*_CLIP_SIZES, "activation")
        if sizes[key] != found.sizes[key] and found.sizes[key] is not None and key not in resize
    ]
    if differing:
        raise ValueError(
            f"--from-clip {file} is {found.what}, but the config asks for another:\n  "
            + "\n  ".join(differing)
        )

    def place(new, old):
        if new is None:
            return old
        return jax.make_array_from_callback(
            old.shape, old.sharding, lambda index: new[index].astype(old.dtype)
        )

    partial = convert.from_clip(found.state, _at_home(name, sizes, found))
    partial = resize_weights.fit(partial, fresh, allow=resize, source=file)
    return jax.tree.map(place, partial, fresh, is_leaf=lambda leaf: leaf is None)


def _at_home(name: str, sizes: dict, found: Found):
    """Returns the model that the weights of a file have the shapes of."""
    own = {key: found.sizes.get(key) for key in resize_weights.OPTIONS}
    sizes = sizes | {key: size for key, size in own.items() if size is not None}
    longest = {"max_words": sizes["context_length"], "max_frames": sizes["context_length"] - 1}
    return models.create(name, **sizes | {key: min(sizes[key], n) for key, n in longest.items()})


def export(folder: Path | str, to: str, out: Path | str, which: str = "selected") -> list[Path]:
    """Writes a run's weights by the names of `to` into the folder `out`; returns the files.

    `pytorch` is the whole model as the references' state dicts have it, `openai` and
    `huggingface` the CLIP in it.
    """
    trained = workdir.load(folder, which)
    config = trained.config
    sizes = workdir.model_sizes(config, trained.tokenizer.vocab_size)
    activation = sizes.get("activation", "quick_gelu")
    state = convert.to_torch(trained.params, (trained.graphdef, trained.params))
    files = [Path(out) / "model.safetensors"]
    if to == "pytorch":
        _check_released(config, activation)
        state = completed(state, config.model.name, config.model.head)
    else:
        if "clip.visual.conv2.weight" in state:
            raise ValueError(f"--to {to}: CLIP has no place for this run's 3d patch.")
        state = {
            name.removeprefix("clip."): array
            for name, array in state.items()
            if name.startswith("clip.")
        }
    Path(out).mkdir(parents=True, exist_ok=True)
    if to == "huggingface":
        state = hugging_face.to_hugging_face(state)
        files.append(Path(out) / "config.json")
        facts = hugging_face.config(sizes, activation)
        files[1].write_text(json.dumps(facts, indent=2) + "\n")
    notes = {"format": "pt", "activation": activation, "made_by": f"xclip_jax {__version__}"}
    save_file(state, files[0], metadata=notes)
    return files


def _check_released(config, activation: str) -> None:
    """Raises ValueError where the references cannot compute what this run's model does."""
    released = {
        "activation": "quick_gelu",
        "contrasts": tuple(CONTRASTS),
        "aggregation": "aosm",
        "temperature": TEMPERATURE,
        "learned_mixing": True,
        "mask_padding": False,
    }
    asked = dict(config.model) | {"activation": activation}
    asked |= {"contrasts": tuple(asked["contrasts"])} if "contrasts" in asked else {}
    wrong = [
        f"config.model.{key}={asked[key]!r}, there {value!r}"
        for key, value in released.items()
        if key in asked and asked[key] != value
    ]
    if wrong:
        raise ValueError(f"--to pytorch: the released code has no such model: {'; '.join(wrong)}.")


def completed(state: dict[str, np.ndarray], model: str, head: str) -> dict[str, np.ndarray]:
    """Adds what the references' modules hold without using it, so that they load strictly."""
    width = state["clip.text_projection"].shape[1]
    unused = {}
    if head == "seqLSTM":
        unused[convert.UNUSED_IN_LSTM] = state["clip.positional_embedding"].copy()
    if model == "clip2video":
        unused["trans_layernorm.weight"] = np.ones(width, np.float32)
        unused["trans_layernorm.bias"] = np.zeros(width, np.float32)
    return unused | state
