"""What a run tells of itself beside its losses: speed, start-up, epochs, a trace."""

import json
import logging
import os
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from xclip_jax import (
    cli_train,
    models,
    profiling,
    startup,
    throughput,
    train,
    train_step,
    workdir,
)


def test_reports_tell_speed_a_chip_and_lines_tell_epochs_and_start_up(
    tiny_config, tmp_path, capsys
):
    tiny_config.epochs, tiny_config.batch_size = 2.0, 40  # two epochs of three steps
    tiny_config.report_every_steps = 1

    train.train_and_evaluate(tiny_config, tmp_path, profile="2:4")

    said = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "train/loss" in line:
            videos = line["train/steps_per_second"] * 40 / jax.device_count()
            assert line["train/videos_per_second_per_chip"] == pytest.approx(videos)
            assert 0 <= line["train/data_wait"] <= 1 and "train/mfu" not in line  # a CPU
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    epochs = [line for line in lines if "epoch" in line]
    assert [(line["epoch"], line["step"], line["epoch/steps"]) for line in epochs] == [
        (1, 3, 3),
        (2, 6, 3),
    ]
    assert epochs[1]["epoch/loss"] == pytest.approx(sum(losses[3:]) / 3)
    assert "epoch 2/2  mean loss" in said and "start-up " in said and "first step, compiled" in said
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_trace_holds_all_of_the_computation_of_its_steps_and_no_more(tmp_path):
    products = 30

    @jax.jit
    def step(x):
        return jax.lax.fori_loop(0, products, lambda _, x: jnp.tanh(x @ x), x)

    window = profiling.Window("1:3", tmp_path)
    state = jax.block_until_ready(step(jnp.ones((300, 300))))
    for number in range(5):
        window.at(number, state)
        state = step(state)

    [file] = tmp_path.rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    names = [event.name for plane in planes for line in plane.lines for event in line.events]
    counts = {name: names.count(name) for name in names if re.fullmatch(r"tanh[.\d]*", name)}
    assert list(counts.values()) == [2 * products]


@pytest.mark.parametrize("steps", ["3", "5:5", "7:2", "a:b", "-1:4"])
def test_a_window_that_is_none_is_refused(steps, tmp_path):
    with pytest.raises(ValueError, match=f"--profile {steps}: expected START:STOP"):
        profiling.Window(steps, tmp_path)


def test_start_up_is_split_into_parts_that_add_up(monkeypatch):
    now = 5.0
    monkeypatch.setattr(startup.time, "perf_counter", lambda: now)
    clock = startup.Clock()
    for name, seconds in (("imports", 1.5), ("data", 0.25), ("imports", 0.5)):
        now += seconds
        clock.mark(name)

    assert clock.line() == "start-up 2.2 s: imports 2.0, data 0.2"


class Device:
    """What `throughput` asks of a device."""

    def __init__(self, kind: str, platform: str, stats: dict | None):
        self.device_kind, self.platform, self.stats = kind, platform, stats

    def memory_stats(self):
        return self.stats


def test_mfu_and_memory_are_those_of_the_chip(tiny_config, monkeypatch):
    half = {"peak_bytes_in_use": 8, "bytes_limit": 16}
    chips = [Device("TPU v5e", "tpu", half), Device("TPU v5e", "tpu", None)]
    monkeypatch.setattr(jax, "devices", lambda: chips)
    monkeypatch.setattr(jax, "local_devices", lambda: chips)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    sizes = workdir.model_sizes(tiny_config, 300)

    rates = throughput.Rates(tiny_config, sizes)
    told = rates.of(10.0)

    assert told["train/videos_per_second_per_chip"] == 40  # 8 pairs, 10 times a second, 2 chips
    graphdef, params = models.create("xclip", **sizes | {"remat": "none"})
    batch = train_step.abstract_batch(tiny_config, sizes)

    def loss(params, batch):
        model = nnx.merge(graphdef, params)
        text = model.encode_text(batch["tokens"], batch["token_mask"])
        video = model.encode_video(batch["video"], batch["frame_mask"])
        return model.loss(text, video, jax.random.key(0))

    # XLA counts a scan's body once, and this model's have one turn; norms and softmaxes are a
    # tenth of a model this narrow.
    counted = jax.jit(jax.grad(loss)).lower(params, batch).cost_analysis()["flops"]
    assert told["train/mfu"] == pytest.approx(10 * counted / 2 / 197e12, rel=0.1)
    assert told["train/hbm_peak"] == 0.5
    assert throughput.words(told).startswith("40 videos/s/chip  MFU ")


@pytest.mark.parametrize(
    ("workdir", "folder", "of_xla"),
    [
        ("gs://b/runs/m/", "gs://b/runs/m/compilation", "none"),
        ("s3://b/m", "s3://b/m/compilation", "none"),
        ("runs/m", "~/.cache/xclip_jax/compilation", "kept"),
        ("memory://m", "~/.cache/xclip_jax/compilation", "kept"),
    ],
)
def test_what_was_compiled_is_kept_beside_a_run_in_a_bucket(monkeypatch, workdir, folder, of_xla):
    told = {"jax_persistent_cache_enable_xla_caches": "kept"}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(jax.config, "update", told.__setitem__)

    startup.keep_compilations(workdir)

    assert told == {
        "jax_compilation_cache_dir": os.path.expanduser(folder),
        "jax_persistent_cache_enable_xla_caches": of_xla,
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "--xla_gpu_deterministic_ops=true"),
        ("--xla_a=1", "--xla_a=1 --xla_gpu_deterministic_ops=true"),
        ("--xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops=false"),
    ],
)
def test_the_same_bits_are_asked_of_xla_unless_its_flags_say_otherwise(monkeypatch, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)

    startup.compute_the_same_bits()

    assert os.environ["XLA_FLAGS"] == after


def test_the_same_bits_cannot_be_had_once_there_are_devices(tiny_config, monkeypatch, tmp_path):
    tiny_config.deterministic = True
    startup.check_bits(tiny_config)  # CPUs have no others
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    with pytest.raises(
        ValueError, match=r"deterministic=True takes effect only before .*_ops=true\."
    ):
        train.train_and_evaluate(tiny_config, tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_warnings_of_libraries_are_shown_in_a_line_but_not_what_a_failed_save_says_too():
    def record(file: str, level: int) -> logging.LogRecord:
        return logging.LogRecord("absl", level, file, 1, "text", (), (ValueError, None, None))

    shown = record("path/storage_backend.py", logging.ERROR)  # a checkpoint cannot be removed

    assert cli_train._in_a_line(shown) and shown.exc_info is None
    assert cli_train._in_a_line(record("checkpoint_manager.py", logging.WARNING))
    assert not cli_train._in_a_line(record("async_checkpointer.py", logging.ERROR))


def test_a_run_goes_on_where_tensorboard_cannot_write(tmp_path, capsys):
    pytest.importorskip("tensorflow")
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("no folder")

    assert train.summary_writer(tmp_path / "file") is None

    assert "TensorBoard's files cannot be written" in capsys.readouterr().out
