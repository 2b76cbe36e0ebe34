"""From `--config NAME:argument` and `--config.key=value` to a config; every mistake is one line."""

import ast
import difflib
import importlib
import importlib.util
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
    _check_counts(config)


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
        close = difflib.get_close_matches(key, _keys(config), n=1)
        hint = f"; did you mean --config.{close[0]}?" if close else ""
        raise ValueError(f"--config.{key}: the config has no such key{hint}") from None
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


def _check_counts(config) -> None:
    counts = {f"config.{key}": config[key] for key in _COUNTS}
    counts |= {f"config.data.{key}": config.data[key] for key in _DATA_COUNTS}
    wrong = [f"{key}={value}" for key, value in counts.items() if value is not None and value <= 0]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: expected more than 0.")


def _keys(config, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        keys += _keys(value, name + ".") if hasattr(value, "items") else [name]
    return keys
