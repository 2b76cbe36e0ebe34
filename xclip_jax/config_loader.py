"""From `--config NAME:argument` and `--config.key=value` to a config; every mistake is one line."""

import ast
import difflib
import functools
import importlib
import importlib.util
import math
import pkgutil
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from xclip_jax import configs

_COUNTS = (
    *("epochs", "batch_size", "eval_batch_size", "fsdp", "keep_checkpoints"),
    *("eval_every_steps", "save_every_steps", "report_every_steps", "reference_gpus"),
)
_DATA_COUNTS = ("max_words", "max_frames")
# Least and most of what may be 0 or has an end; freeze_layers ends with the model's towers.
_RANGES = {
    "seed": (0, 2**63 - 1),
    "micro_batch": (0, math.inf),
    "optimizer.learning_rate": (0, math.inf),
    "optimizer.clip_multiplier": (0, math.inf),
    "optimizer.warmup_fraction": (0, 1),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.freeze_layers": (-1, math.inf),
    "optimizer.encoder_gradient_scale": (0, math.inf),
}


def load(spec: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Returns the config of "name:argument" or "path.py:argument" with `--config.key=value`s."""
    name, _, argument = spec.partition(":")
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise FileNotFoundError(f"--config {name}: there is no such file.")
        module_spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
    else:
        known = {found.name for found in pkgutil.iter_modules(configs.__path__)} - {"common"}
        if name not in known:
            raise ValueError(
                f"--config {name!r} is unknown: expected one of {', '.join(sorted(known))}, or"
                " the path of a .py file."
            )
        module = importlib.import_module(f"xclip_jax.configs.{name}")
    config = module.get_config(argument)
    override(config, overrides)
    return config


def override(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> None:
    """Sets the keys of `--config.key=value`s in a config."""
    for word in overrides:
        key, equals, text = word.removeprefix("--config.").partition("=")
        if not equals:
            raise ValueError(f"{word}: expected --config.{key}=VALUE.")
        _override(config, key, text)
    _check(config)


def _override(config, key: str, text: str) -> None:
    parent, _, leaf = key.rpartition(".")
    node = config
    try:
        for part in filter(None, parent.split(".")):
            node = node[part]
        old = node[leaf]
        if hasattr(old, "items"):  # a group of keys, not one
            raise KeyError(key)
    except (KeyError, TypeError):
        raise ValueError(
            f"--config.{key}: the config has no such key{_hint(config, key)}"
        ) from None
    kind = node.get_type(leaf)
    try:
        if kind is str:
            value = text
        elif kind is bool:
            value = {"true": True, "false": False}[text.lower()]
        elif kind is tuple:
            value = tuple(filter(None, text.split(",")))
        else:
            value = ast.literal_eval(text)
            if type(value) not in ((int, float) if kind is float else (kind,)):
                raise TypeError(text)  # 1.5 is no batch size, nor is True
            value = kind(value)
        node[leaf] = value
    except (KeyError, TypeError, ValueError, SyntaxError):
        raise ValueError(
            f"--config.{key}={text}: expected a value of type {kind.__name__}, like {old!r}."
        ) from None


def _hint(config, key: str) -> str:
    """Returns which key may have been meant, or else what the group has that was named."""
    keys = _keys(config)
    group, _, leaf = key.rpartition(".")
    inside = [known for known in keys if known.startswith(f"{key}.")]
    if inside:
        return f"; it is a group of {', '.join(map(_leaf, inside))}"
    own = [known for known in keys if known.rpartition(".")[0] == group]
    for names in ([known for known in keys if _leaf(known) == leaf], own, keys):
        close = difflib.get_close_matches(leaf, map(_leaf, names), n=1)
        if meant := [known for known in names if _leaf(known) in close]:
            best = difflib.get_close_matches(key, meant, n=1, cutoff=0)[0]
            return f"; did you mean --config.{best}?"
    return f"; config.{group} has {', '.join(map(_leaf, own))}" if group and own else ""


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _check(config) -> None:
    """Raises one ValueError for the numbers that no run can have."""
    counts = {f"config.{key}": config[key] for key in _COUNTS}
    counts |= {f"config.data.{key}": config.data[key] for key in _DATA_COUNTS}
    wrong = [f"{key}={value}" for key, value in counts.items() if value is not None and value <= 0]
    problems = [f"{', '.join(wrong)}: expected more than 0"] if wrong else []
    for key, (least, most) in _RANGES.items():
        value = functools.reduce(lambda node, part: node[part], key.split("."), config)
        if key == "optimizer.freeze_layers" and value > 0:
            most = _deepest_tower(config)
        if not least <= value <= most or value == math.inf:
            upper = "or more" if most == math.inf else f"to {most}"
            problems.append(f"config.{key}={value}: expected {least} {upper}")
    if problems:
        raise ValueError("; ".join(problems) + ".")


def _deepest_tower(config) -> float:
    """Returns the most layers that one of CLIP's towers has, as far as the config tells."""
    from xclip_jax.models.clip import ARCHS  # brings jax, which a build does without

    names = ("vision_layers", "text_layers")
    known = ARCHS.get(config.model.arch, {})
    layers = [config.model[name] or known.get(name) for name in names]
    return max(filter(None, layers), default=math.inf)


def _keys(config, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        keys += _keys(value, name + ".") if hasattr(value, "items") else [name]
    return keys
