"""The benchmarks run and say what they measured."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

import jax
import pytest

from xclip_jax import video, workdir

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def lines_of(name: str, capsys, *arguments: str) -> dict:
    """Returns the one JSON line that a benchmark prints."""
    importlib.import_module(name).main(list(arguments))
    [line] = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_a_train_step_is_timed_apart_from_its_compilation(capsys):
    sizes = ["--batch", "8", "--frames", "2", "--words", "5", "--steps", "2"]
    small = {"vocab_size": 64, "image_size": 32, "vision_layers": 1, "text_layers": 1}
    small |= {"embed_dim": 64, "vision_width": 64, "text_width": 64, "head": "meanP"}
    overrides = [f"--config.model.{key}={value}" for key, value in small.items()]

    line = lines_of("train_step", capsys, "--arch", "custom", *sizes, *overrides)

    assert (line["batch"], line["frames"], line["words"]) == (8, 2, 5)
    assert (line["device"], line["devices"], line["jax"]) == ("cpu", 8, jax.__version__)
    assert line["step_seconds"]["repeats"] == 2 and line["compile_seconds"] > 0
    rate = 8 * 2 / line["step_seconds"]["median"]
    assert line["frames_per_second"] == pytest.approx(rate, rel=0.05)  # of rounded numbers
    assert "mfu" not in line  # nobody knows the peak of a CPU


def test_similarity_scores_the_rows_asked_for(capsys):
    sizes = ["--texts", "7", "--videos", "9", "--words", "5", "--frames", "3", "--rows", "4"]

    line = lines_of("similarity", capsys, *sizes, "--repeats", "2")

    assert (line["texts"], line["videos"], line["rows_scored"]) == (7, 9, 4)
    assert line["pairs_per_second"] > 0 and line["process_peak_gib"] > 0.1


def test_an_index_finds_what_the_exact_ranking_does(capsys):
    line = lines_of("search", capsys, "--videos", "300", "--queries", "2", "--candidates", "64")

    assert (line["videos"], line["candidates"], line["own_video_first"]) == (300, 64, 1)
    assert line["recall_at_10"] > 0.8 and line["added_found_first"] == 1
    assert line["whole_ms"]["p95"] >= line["whole_ms"]["p50"] > 0 and line["gigabytes"] > 0.003


@pytest.mark.skipif(sys.platform != "linux", reason="pins threads to a core")
def test_the_input_pipeline_is_pinned_to_one_core_and_let_go(shapes, capsys):
    pinned = importlib.import_module("measure").usable_cores()

    line = lines_of(
        "input_pipeline",
        capsys,
        *("--shards", str(shapes / "shards"), "--batch", "8", "--frames", "6"),
        *("--seconds", "0.3", "--repeats", "2"),
    )

    assert (line["pinned_to"], line["side"], line["frames"]) == (1, 64, 6)
    assert line["frames_per_second_a_core"]["min"] > 0
    assert set(line["stage_share"]) == {"read", "parse", "decode", "tokenize"}
    assert sum(line["stage_share"].values()) == pytest.approx(1, abs=0.01)
    assert importlib.import_module("measure").usable_cores() == pinned


@pytest.mark.skipif("XCLIP_JAX_KILLS" not in os.environ, reason="trains several models")
def test_the_table_of_systems_trains_each_seed_and_goes_on_with_finished_runs(
    shapes, tmp_path, capsys
):
    table = importlib.import_module("shapes_table")
    smoke = "--config.model.vision_layers=1", "--config.model.text_layers=1"
    system = table.System("X-CLIP small", "model=xclip,head=meanP,smoke", smoke)
    args = argparse.Namespace(shards=shapes / "shards", runs=tmp_path, seeds=2, epochs=0.2)

    first = table.row(system, args)
    trained = capsys.readouterr().out
    again = table.row(system, args)

    name, recall, _, accuracy, speed, parameters, _ = first.split("|")[1:]
    assert name.strip() == "X-CLIP small" and float(speed) > 0
    assert len(recall.split(",")) == 2 and 0 <= float(accuracy.split()[0]) <= 1
    run = workdir.load(tmp_path / "X-CLIP_small-1")
    assert int(parameters.replace(",", "")) == sum(x.size for x in jax.tree.leaves(run.params))
    assert run.config.seed == 1 and "3 steps" in trained
    assert again == first and first in table.page([first], "the command", table.machine())


def test_a_build_stores_the_frames_that_opencv_finds(tmp_path, capsys):
    pytest.importorskip("cv2")
    from rendered import render

    for name, count in (("a", 31), ("b", 58)):
        render(tmp_path / f"{name}.mp4", count, fps=10)

    line = lines_of("build", capsys, "--videos", str(tmp_path), "--workers", "1", "--repeats", "1")

    assert (line["clips"], line["workers"], line["frames"]) == (2, 1, 4 + 6)
    assert line["equal_frames"] == 10 and line["other_counts"] == {}
    rates = line["clips_per_second"]
    faster = rates["ours"] / rates["opencv"]
    assert line["times_faster_than_opencv"] == pytest.approx(faster, rel=0.05)


def test_without_opencv_the_build_is_not_measured_and_says_what_to_install(monkeypatch, capsys):
    build = importlib.import_module("build")
    monkeypatch.setattr(build, "find_spec", lambda name: None)

    with pytest.raises(SystemExit):
        build.main([])

    assert "pip install opencv-python-headless" in capsys.readouterr().err


def test_the_peak_is_that_of_the_device_and_its_arithmetic(monkeypatch):
    measure = importlib.import_module("measure")

    class Device:
        platform, device_kind = "gpu", "NVIDIA H200"

    monkeypatch.setattr(jax, "devices", lambda: [Device])
    monkeypatch.setattr(jax, "device_count", lambda: 2)

    numbers = measure.arithmetic("float32", "default")
    assert numbers == "tensorfloat32"
    assert measure.arithmetic("float32", "highest") == "float32"
    assert measure.speed(494.7e12, 1.0, numbers)["mfu"] == 0.5
    Device.device_kind = "TPU v5 lite"
    assert measure.speed(197e12, 1.0, "bfloat16")["mfu"] == 0.5
    Device.device_kind = "NVIDIA H100 PCIe"
    assert "mfu" not in measure.speed(1e12, 1.0, "bfloat16")


def test_a_rehearsal_has_a_clip_of_its_own_for_each_video(tmp_path):
    rehearsal = importlib.import_module("rehearsal")
    (tmp_path / "b.avi").write_bytes(b"kept")

    rehearsal.render_all(["a", "b", "c"], tmp_path, ".avi")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.avi", "b.avi", "c.avi"]
    assert (tmp_path / "b.avi").read_bytes() == b"kept"
    (first, times), (other, _) = (video.read(tmp_path / name) for name in ("a.avi", "c.avi"))
    assert 2 <= len(times) <= 5
    assert first[0].tobytes() != other[0].tobytes()


def test_a_rehearsal_stops_at_a_command_that_fails():
    rehearsal = importlib.import_module("rehearsal")

    seconds, gib, output = rehearsal.command("--help")
    with pytest.raises(SystemExit, match="xclip-jax build nothing ended with 2"):
        rehearsal.command("build", "nothing")

    assert seconds > 0 and gib > 0.01 and "build" in output
