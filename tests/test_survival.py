"""What a run survives: being asked to stop, damaged checkpoints, a full disk, other layouts."""

import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_without_tensorflow import WITHOUT

from xclip_jax import (
    checkpoint,
    models,
    optimizer,
    sharding,
    train,
    train_step,
    workdir,
)
from xclip_jax.processes import preemption


def bits(folder, which="last") -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.load_params(folder, which)[0])]


def lines_with(folder, key: str) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if key in line]


# The suite has the moments that differ most; XCLIP_JAX_KILLS, as in test_resume.py, all of them.
MOMENTS = [("at step 3", 3), ("evaluating step 6", 6), ("evaluating step 4", 4)]


@pytest.mark.parametrize(
    ("stop_while", "step"), MOMENTS if "XCLIP_JAX_KILLS" in os.environ else MOMENTS[:2]
)
def test_a_run_that_was_asked_to_stop_saves_and_goes_on_to_the_same_end(
    run, tiny_config, tmp_path, capsys, stop_while, step
):
    tiny_config.eval_every_steps = 4
    notice = preemption.Notice()

    def moved(doing: str) -> None:
        notice.given |= doing == stop_while

    with pytest.raises(preemption.Preempted, match=f"preempted at step {step}; saved; run the"):
        train.train_and_evaluate(tiny_config, tmp_path, notice=notice, moved=moved)
    assert checkpoint.load_params(tmp_path)[1] == step and not (tmp_path / "finished").exists()
    train.train_and_evaluate(tiny_config, tmp_path)

    assert f"goes on at step {step}, 6 steps" in capsys.readouterr().out
    for one, other in zip(bits(tmp_path), bits(run), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [line["step"] for line in lines_with(tmp_path, "t2v/r1")] == [4, 6]
    with checkpoint.open_folder(tmp_path, keep=2) as checkpointer:
        rated = {found.step for found in checkpointer.checkpoints if found.metrics}
    assert 6 in rated and checkpoint.load_params(tmp_path, "best")[1] in (4, 6)
    assert json.loads((tmp_path / "finished").read_text())["step"] == 6


def test_what_is_best_is_decided_by_the_metric_named(tmp_path):
    for metric, best in (("t2v/r1", 2), ("v2t/r5", 1), ("t2v/mean_rank", 3)):
        folder = tmp_path / metric.replace("/", "_")
        with checkpoint.open_folder(folder, keep=1, metric=metric) as checkpointer:
            for step, values in enumerate(((3, 9, 7.0), (5, 4, 6.0), (4, 5, 2.0), (1, 1, 8.0)), 1):
                names = ("t2v/r1", "v2t/r5", "t2v/mean_rank")
                scores = dict(zip(names, values, strict=True))
                state = {"params": {"x": np.ones(3)}, "step": np.full((), step, np.int32)}
                checkpoint.save(checkpointer, state, metrics=scores)

            assert checkpoint.best_step(checkpointer, metric) == best
        assert {path.name for path in (folder / "checkpoints").iterdir()} == {str(best), "4"}


def test_a_metric_that_no_evaluation_gives_is_refused_before_anything_starts(tiny_config, tmp_path):
    tiny_config.best_metric = "t2v/r2"

    with pytest.raises(ValueError, match=r"best_metric='t2v/r2': expected one of t2v/r1, .*v2t/"):
        train.train_and_evaluate(tiny_config, tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_a_state_goes_from_eight_devices_to_two_to_four_bit_for_bit(tiny_config, tmp_path):
    tiny_config.model.embed_dim = tiny_config.model.text_width = 256  # large enough to be shared
    sizes = workdir.model_sizes(tiny_config, 300)
    adam = optimizer.create(**tiny_config.optimizer, total_steps=6).transformation
    models.create(tiny_config.model.name, **sizes)

    def layout(devices: int, fsdp: int) -> dict:
        mesh = sharding.make_mesh(fsdp, jax.devices()[:devices])
        return train_step.abstract_state(tiny_config, sizes, adam, mesh)[0]

    shapes = layout(8, 4)
    rng = np.random.default_rng(1)
    written = jax.tree.map(
        lambda leaf: rng.integers(0, 99, leaf.shape).astype(leaf.dtype), layout(8, 4)
    ) | {"step": np.int32(1)}
    state = jax.tree.map(lambda x, leaf: jax.device_put(x, leaf.sharding), written, shapes)
    shared = []
    for step, (devices, fsdp) in enumerate(((2, 1), (4, 2), (8, 8)), 1):
        with checkpoint.open_folder(tmp_path, keep=1) as checkpointer:
            checkpoint.save(checkpointer, state, metrics=None)
        with checkpoint.open_folder(tmp_path, keep=1) as checkpointer:
            state = checkpoint.restore(checkpointer, layout(devices, fsdp))
        leaves = jax.tree.leaves(state)
        assert {len(leaf.sharding.device_set) for leaf in leaves} == {devices}
        shared.append(sum(not leaf.is_fully_replicated for leaf in leaves))
        jax.tree.map(np.testing.assert_array_equal, state, written | {"step": np.int32(step)})
        written["step"] = np.int32(step + 1)
        state["step"] = jax.device_put(written["step"], state["step"].sharding)

    assert shared[0] == 0 and shared[1] > 0 and shared[2] > 0


DAMAGE = ("state/ocdbt.process_0/d/*", "state/_METADATA", "state/manifest.ocdbt")


@pytest.fixture
def copied(run, tmp_path):
    """The finished run's steps 4 and 6, to be damaged."""
    return shutil.copytree(run, tmp_path / "copied")


def cut_short(folder, pattern: str) -> None:
    """Leaves half of the largest file that the pattern names."""
    file = max(folder.glob(pattern), key=lambda path: path.stat().st_size)
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("pattern", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken_only_if_asked_for(
    copied, tiny_config, pattern
):
    folder = copied / "checkpoints" / "6"
    cut_short(folder, pattern)
    expected = (
        rf"checkpoint of step 6 is damaged: {folder} cannot be read \(.+\)\. If you have a copy,"
        " put it there; to go on from step 4 instead, remove that folder"
    )

    with pytest.raises(ValueError, match=expected):
        train.train_and_evaluate(tiny_config, copied)
    with pytest.raises(ValueError, match=expected):
        workdir.load(copied)
    assert folder.is_dir()  # nothing was done about it unasked


def test_without_the_damaged_one_the_run_goes_on_from_the_one_before(
    run, copied, tiny_config, capsys
):
    shutil.rmtree(copied / "checkpoints" / "6")

    train.train_and_evaluate(tiny_config, copied)

    assert "goes on at step 4" in capsys.readouterr().out
    for one, other in zip(bits(copied), bits(run), strict=True):
        np.testing.assert_array_equal(one, other)


def test_damaged_metrics_are_named(copied, tiny_config):
    cut_short(copied / "checkpoints" / "6", "metrics/metrics")

    with pytest.raises(ValueError, match=r"6/metrics/metrics is damaged .*: remove the folder"):
        train.train_and_evaluate(tiny_config, copied)


SMALL_DISK = (
    WITHOUT
    + """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails as on a full disk
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
from xclip_jax import cli
cli.main(sys.argv[2:])
"""
)


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_the_last_save(
    copied, run, tiny_config, tiny_config_file
):
    shutil.rmtree(copied / "checkpoints" / "6")
    flags = re.sub(r"(device_count)=\d+", r"\1=8", os.environ["XLA_FLAGS"])
    command = f"train --config {tiny_config_file} --workdir {copied}".split()

    full = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, "300000", *command],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )

    assert full.returncode == 2
    assert re.fullmatch(
        r"xclip-jax: a checkpoint could not be saved \(.*File too large.*\); the last whole one is"
        r" of step 4\. Where the disk is full make room, .*\n",
        full.stderr,
    )
    train.train_and_evaluate(tiny_config, copied)
    for one, other in zip(bits(copied), bits(run), strict=True):
        np.testing.assert_array_equal(one, other)
