"""NVIDIA GPUs' programs, compiled without a GPU by JAX's CUDA plugin; skipped where that is not."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from xclip_jax import chips, config_loader, models, sharding, workdir
from xclip_jax.plan import gpus

TINY = [
    *("--config.model.embed_dim=64", "--config.model.vocab_size=300"),
    *("--config.model.vision_width=256", "--config.model.vision_layers=1"),
    *("--config.model.text_width=256", "--config.model.text_layers=1"),
    *("--config.model.temporal_layers=1", "--config.model.image_size=32"),
    *("--config.data.max_words=7", "--config.data.max_frames=3"),
]


def has_plugin() -> bool:
    names = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
    return importlib.util.find_spec("jax_plugins") is not None and any(
        map(importlib.util.find_spec, names)
    )


def plan(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """Returns a process of its own, without the flags that the tests compile with."""
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "xclip_jax", "plan", "--config", "shapes", *TINY, *words],
        capture_output=True,
        text=True,
        env=inherited | environment,
    )


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> tuple[dict, str]:
    """The facts of a step of 24 pairs on eight H100, two of which share each parameter."""
    if not has_plugin():
        pytest.skip("needs JAX's CUDA plugin: pip install '.[plan-gpu]'")
    file = tmp_path_factory.mktemp("plan") / "plan.json"
    words = ["--topology", "h100:8", "--batch-size", "24", "--config.fsdp=2", "--json", str(file)]
    done = plan(*words, "--sweep", "--plot", str(file.with_name("plan.png")))
    assert done.returncode == 0, done.stderr
    [facts] = json.loads(file.read_text())
    return facts, done.stdout


def test_a_gpus_step_takes_the_state_and_the_batch_and_must_fit_what_jax_takes(planned):
    facts, said = planned
    _, params = models.create(
        "xclip", **workdir.model_sizes(config_loader.load("shapes", TINY), 300)
    )
    layout = sharding.shard_params(params, sharding.make_mesh(2, jax.devices()))
    state = 3 * sum(  # and Adam's two moments
        4 * np.prod(place.shard_shape(leaf.shape))
        for leaf, place in zip(jax.tree.leaves(params), jax.tree.leaves(layout), strict=True)
    )
    batch = 24 // 8 * (3 * 32 * 32 * 3 + 3 + 7 * 4 + 7)

    step = facts["step"]
    assert step["memory"]["argument"] == pytest.approx(state + batch, rel=0.01)
    assert step["fits"] is True
    assert step["hbm_gib"] == 0.75 * chips.find("NVIDIA H100 80GB HBM3").hbm_gib
    assert "JAX takes 75% of the 79.1 GiB" in said and "Not counted: memory of cuBLAS" in said


def test_a_gpus_time_is_the_rooflines_of_its_data_sheet(planned):
    facts, _ = planned

    assert (facts["chip"], facts["chips"], facts["arithmetic"]) == (
        *("NVIDIA H100 80GB HBM3", 8),
        "tensorfloat32",  # what JAX makes of float32 on a GPU
    )
    seconds, step = facts["estimate"]["seconds"], facts["step"]
    assert seconds["compute"] == pytest.approx(step["executed_flops"] / 494.7e12)
    assert seconds["hbm"] == pytest.approx(step["hbm_bytes"] / 3.35e12)
    sent = sum(one["sent"] for one in step["collectives"])
    assert seconds["ici"] == pytest.approx(sent / 450e9) and sent > 0
    assert any("fsdp" in one["axes"] for one in step["collectives"])


def test_without_the_plugin_it_is_one_line_that_says_what_to_install():
    code = (
        "import sys, importlib.metadata as found; sys.modules['jax_plugins'] = None;"
        "found.entry_points = lambda **_: found.EntryPoints(); from xclip_jax import cli;"
        "cli.main(['plan', '--config', 'shapes', '--topology', 'h100:8'])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "--topology h100:8: compiling for a GPU needs" in done.stderr
    assert "pip install 'xclip_jax[plan-gpu]'" in done.stderr


def test_the_part_of_a_gpu_that_jax_takes_goes_by_its_variables(monkeypatch):
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert gpus.share() == 0.75
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    assert gpus.share() == 0.5
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", ".95")
    assert gpus.share() == 0.95


def test_several_hosts_are_compiled_for_and_not_timed():
    one, several = (gpus.notes(79.1, hosts) for hosts in (1, 4))

    assert (
        several[: len(one)] == one and "No times" in several[-1] and "No times" not in " ".join(one)
    )
