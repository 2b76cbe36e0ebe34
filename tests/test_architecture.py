"""Who may import whom, which packages may be used where, and how long a file may be (DESIGN.md).

The rules are functions of a module's name and source, so that each is also shown to fail.
"""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"xclip_jax": "xclip_jax", "configs": "xclip_jax.configs", "data": "xclip_jax.data"}
MAX_LINES = 300

# What each module of xclip_jax may import of ours. `version` may be imported anywhere.
MAY_IMPORT = {
    "": {"library"},  # the package itself, when asked for `load`
    "version": set(),
    "frames": set(),
    "frame_policy": {"frames"},
    "stream_frames": set(),
    "video": {"frames", "frame_policy", "stream_frames"},
    "stills": {"stream_frames", "video"},
    "tokenizer": {"frames", "retry"},
    "metrics": {"frames"},
    "dual_softmax": {"metrics"},
    "losses": {"frames"},
    "torch_pickle": set(),
    "torch_file": {"torch_pickle"},
    "retry": set(),
    "remote": {"retry"},
    "records": {"frames", "frame_policy", "remote"},
    "doctor": {"frames", "records"},
    "contact_sheet": {"frames", "records"},
    "sharding": set(),
    "parallel": {"parallel", "sharding"},
    "models": {"models", "losses", "sharding", "frames"},  # of frames, a pixel's mean and deviation
    "input": {"records", "frames", "frame_policy", "tokenizer", "sharding"},
    "flops": set(),
    "chips": set(),
    "processes.distributed": {"retry"},
    "one_line": {"processes.distributed", "retry"},
    "processes": {"processes.distributed"},
    "profiling": set(),
    "startup": set(),
    "lines": {"remote"},
    "training.divergence": set(),
    "training.in_flight": set(),
    "plan.hlo": set(),
    "plan.traffic": {"plan.hlo"},
    "plan.collectives": {"plan.hlo"},
    "plan.roofline": {"chips", "plan.collectives"},
    "plan.gpus": {"chips"},
    "plan.topology": {"chips", "plan.gpus"},
    "plan.report": set(),
    "parameter_groups": set(),
    "bertadam": {"parameter_groups"},
    "optimizer": {"bertadam", "parameter_groups"},
    "resize_weights": set(),
    "runs": set(),
    "runs.checkpoint_folder": {"remote", "retry"},
    "checkpoint": {
        "processes.distributed",
        "remote",
        "retry",
        "runs.checkpoint_folder",
        "sharding",
    },
    "hugging_face": {"torch_file"},
    "weight_formats": {"models", "torch_file", "hugging_face"},
    "download": {"retry", "weight_formats"},
    "convert": {"models", "checkpoint", "torch_file"},
    "configs": {"configs"},
    "data": {"data", "video", "frames", "frame_policy", "remote", "retry"},
}
# Those on top: each may import all of the above but data, and those on top before it.
ON_TOP = (
    *("config_loader", "holdout", "protocol", "workdir", "transfer"),
    *(
        "gather",
        "scoring",
        "evaluate",
        "explain.breakdown",
        "explain.grid",
        "explain.plot",
        "gradient_cache",
        "train_step",
        "throughput",
        "progress",
        "training",
        "train",
        "sampling",
        "few_shapes",
        "clip_features",
        "fingerprint",
        "moments",
        "index",
        "sources",
        "library",
        "web",
        "feature_file",
        "embed",
        "stablehlo",
        "mteb_adapter",
        "plan",
    ),
)
COMMANDS = (
    "report",
    "explain",
    "charts",
    "eval_report",
    "demo",
    "cli_processes",
    "cli_build",
    "cli_explain",
    "cli_shards",
    "cli_train",
    "cli_weights",
    "cli_features",
    "cli_plan",
    "cli_index",
    "cli_eval",
    "cli_serve",
    "cli",
    "__main__",
)  # these may import data too
for name in ON_TOP + COMMANDS:
    MAY_IMPORT[name] = set(MAY_IMPORT) - (set() if name in COMMANDS else {"data"})

WITHOUT_JAX = {
    "data",
    "retry",
    "remote",
    "records",
    "doctor",
    "contact_sheet",
    "frames",
    "frame_policy",
    "stream_frames",
    "video",
    "stills",
    "tokenizer",
    "metrics",
    "dual_softmax",
    "torch_file",
    "resize_weights",
    "configs",
    "chips",
    "plan.hlo",
    "plan.traffic",
    "plan.collectives",
    "plan.roofline",
    "plan.report",
}
ONLY_IN = {
    "tensorflow": {"data"},
    "tensorflow_datasets": {"data", "records"},
    "clu": {"train"},
    "orbax": {"checkpoint", "runs.checkpoint_folder"},
    "grain": {"input"},
    "tokenizers": {"tokenizer"},
    "mteb": {"mteb_adapter"},
    "datasets": {"mteb_adapter"},
    "fastapi": {"web"},
    "uvicorn": {"web"},
    "lancedb": {"index"},
    "pyarrow": {"index", "feature_file"},
    "torch": set(),
}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "jaxtyping"}
TRANSFORMS = {"jit", "grad", "value_and_grad", "scan", "vmap", "remat", "cond", "while_loop"}
FORBIDDEN = {f"flax.nnx.{name}" for name in TRANSFORMS | {"pmap", "Optimizer", "State"}}
FORBIDDEN_ANYWHERE = {"pmap", "pjit", "shard_map"}
# Compiled programs asked for it: features were gathered, and gradients summed, tile by tile.
ALLOWED_IN = {"shard_map": {"sharding"}}
VAGUE = {"utils", "helpers", "base", "misc", "common"}


def modules() -> dict[str, Path]:
    """Returns every module of the package by its name when installed."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def part_of(module: str) -> str:
    """Returns the name by which the tables above know a module of ours: its own, or else that of
    the folder it is in; "" is the package."""
    names = module.split(".")[1:3]
    return ".".join(names) if ".".join(names) in MAY_IMPORT else [*names, ""][0]


def imports(source: str) -> set[str]:
    """Returns the full names of all that a source imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(
            node.args[0] if node.args else 0, ast.Constant
        ):
            called = ast.unparse(node.func)
            if called.endswith("import_module") or called == "__import__":
                found.add(str(node.args[0].value))
    return found


def uses(source: str) -> set[str]:
    """Returns the dotted names that a source uses, with aliases of imports written out."""
    tree = ast.parse(source)
    meaning = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            meaning |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            meaning |= {a.asname: a.name for a in node.names if a.asname}
    dotted = [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute | ast.Name)]
    split = [name.partition(".") for name in dotted]
    return {meaning.get(first, first) + dot + rest for first, dot, rest in split}


def upward_imports(module: str, source: str) -> list[str]:
    """Returns what a module imports of ours without being allowed to."""
    part = part_of(module)
    ours = {part_of(name) for name in imports(source) if name.split(".")[0] == "xclip_jax"}
    if part and part not in MAY_IMPORT:
        return [f"{module} is in no row of MAY_IMPORT; give it one as DESIGN.md has it"]
    allowed = MAY_IMPORT.get(part, set()) | {"version", "__version__", part}
    return [f"{module} imports {name}" for name in sorted(ours - allowed)]


def misplaced_packages(module: str, source: str) -> list[str]:
    """Returns the packages of others that a module must not import."""
    part = part_of(module)
    found = {name.split(".")[0] for name in imports(source)}
    wrong = {package for package in found if part not in ONLY_IN.get(package, {part})}
    if part in WITHOUT_JAX:
        wrong |= found & JAX
    if part == "configs":
        wrong |= found - sys.stdlib_module_names - {"ml_collections", "xclip_jax"}
    return [f"{module} imports {name}" for name in sorted(wrong)]


def forbidden_names(module: str, source: str) -> list[str]:
    """Returns the transforms that a source uses beside jax.jit, jax.grad and jax.lax."""
    names, part = uses(source) | imports(source), part_of(module)
    last = {name: name.split(".")[-1] for name in names}
    wrong = {
        name
        for name in names
        if name in FORBIDDEN
        or (last[name] in FORBIDDEN_ANYWHERE and part not in ALLOWED_IN.get(last[name], set()))
    }
    return [f"{module} uses {name}" for name in sorted(wrong)]


RULES = {rule.__name__: rule for rule in (upward_imports, misplaced_packages, forbidden_names)}


@pytest.mark.parametrize("rule", RULES)
def test_all_modules_keep_the_rule(rule):
    problems = []
    for module, path in modules().items():
        problems += RULES[rule](module, path.read_text(encoding="utf-8"))

    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        ("upward_imports", "xclip_jax.frames", "from xclip_jax import video"),
        ("upward_imports", "xclip_jax.frames", "def f():\n    import xclip_jax.video"),
        ("upward_imports", "xclip_jax.metrics", "from xclip_jax.tokenizer import load"),
        ("upward_imports", "xclip_jax.models.clip", "from xclip_jax.metrics import ranks"),
        ("upward_imports", "xclip_jax.evaluate", "from xclip_jax import train"),
        ("upward_imports", "xclip_jax.train", "from xclip_jax.data import build"),
        ("upward_imports", "xclip_jax.train", "importlib.import_module('xclip_jax.data.build')"),
        ("upward_imports", "xclip_jax.data.jsonl", "from xclip_jax.records import Shards"),
        ("upward_imports", "xclip_jax.configs.shapes", "from xclip_jax import models"),
        ("upward_imports", "xclip_jax", "from xclip_jax import train"),
        ("upward_imports", "xclip_jax.nobody_knows", "import os"),
        ("misplaced_packages", "xclip_jax.records", "import jax.numpy as jnp"),
        ("misplaced_packages", "xclip_jax.data.build", "from jax import jit"),
        ("misplaced_packages", "xclip_jax.evaluate", "def f():\n    import tensorflow as tf"),
        ("misplaced_packages", "xclip_jax.input", "import tensorflow_datasets"),
        ("misplaced_packages", "xclip_jax.evaluate", "from clu import metric_writers"),
        ("misplaced_packages", "xclip_jax.convert", "import torch"),
        ("misplaced_packages", "xclip_jax.configs.common", "import numpy"),
        ("forbidden_names", "xclip_jax.train", "from flax import nnx\nnnx.jit(f)"),
        ("forbidden_names", "xclip_jax.train", "from flax.nnx import grad"),
        ("forbidden_names", "xclip_jax.train", "import flax.nnx as n\nn.Optimizer(m)"),
        ("forbidden_names", "xclip_jax.train", "import jax\njax.pmap(f)"),
        ("forbidden_names", "xclip_jax.train", "from jax.experimental.pjit import pjit"),
    ],
)
def test_the_rule_finds_what_breaks_it(rule, module, source):
    assert RULES[rule](module, source)


def test_the_rules_leave_what_is_allowed():
    source = "import jax\nfrom flax import nnx\nfrom xclip_jax import frames\njax.jit(nnx.merge)"
    for rule in RULES.values():
        assert not rule("xclip_jax.models.clip", source)


def test_files_are_short_and_named_after_an_idea():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in modules().values()}
    vague = {path for path in lines if path.stem in VAGUE} - {ROOT / "configs/common.py"}

    assert len(lines) > 20
    assert not {str(path): count for path, count in lines.items() if count > MAX_LINES}
    assert not vague


def test_every_folder_of_modules_is_packaged():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    found = {name: path.parent for name, path in modules().items() if path.stem == "__init__"}

    assert set(setuptools["packages"]) == set(found)
    for name, folder in found.items():
        parent = name.rpartition(".")[0]
        mapped = setuptools["package-dir"].get(name)
        if mapped is None:
            mapped = f"{setuptools['package-dir'][parent]}/{name.rpartition('.')[2]}"
        assert ROOT / mapped == folder


def loaded_by(statement: str) -> set[str]:
    """Returns the top-level packages in memory after a statement in a new interpreter."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(run.stdout.splitlines()[-1])}


def test_importing_the_package_loads_nothing_else():
    before, after = loaded_by("pass"), loaded_by("import xclip_jax")

    assert {n for n in after - before if n not in sys.stdlib_module_names} == {"xclip_jax"}


def test_the_host_modules_load_neither_jax_nor_tensorflow():
    loaded = loaded_by(
        "from xclip_jax import frames, metrics, records, tokenizer, torch_file, video"
    )

    assert "xclip_jax" in loaded and not loaded & {"jax", "tensorflow", "torch"}


def test_the_model_and_input_load_no_tensorflow():
    loaded = loaded_by("from xclip_jax import input, models, train")

    assert "jax" in loaded and not loaded & {"tensorflow", "torch"}
