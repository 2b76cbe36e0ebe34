"""The same build with its decoding on an Apache Beam runner."""

import json

import numpy as np
import pytest
from rendered import render

from xclip_jax.data import beam
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.build import build_benchmark
from xclip_jax.records import Shards

SPLITS = {
    "train": {"owl": ["an owl"], "ape": ["an ape", "a monkey"], "bee": ["a bee"]},
    "test": {"ape": ["a monkey"], "late": ["too late"], "gone": ["gone"]},
}
BENCHMARK = Benchmark("tiny", SPLITS, {"train": (3, 4), "test": (3, 3)})


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, count in (("owl", 21), ("ape", 35), ("bee", 8)):
        render(folder / f"{name}.mp4", count, fps=10)
    (folder / "late.mp4").write_bytes(b"no video at all")
    return folder


def build(videos, out, **settings):
    return build_benchmark(BENCHMARK, videos, out, short_side=24, workers=1, **settings)


@pytest.fixture
def direct():
    pytest.importorskip("apache_beam")
    return beam.parallel_on("DirectRunner")


def test_a_build_by_beam_has_the_records_and_skips_of_a_local_one(videos, tmp_path, direct):
    known = build(videos, tmp_path / "local", allow_missing=True)

    manifest = build(videos, tmp_path / "beam", allow_missing=True, run=direct)

    assert {**manifest, "fingerprint": ""} == {**known, "fingerprint": ""}
    assert {line["id"] for line in manifest["skipped"]} == {"late", "gone"}
    for split in SPLITS:
        pairs = zip(
            Shards(tmp_path / "beam", split), Shards(tmp_path / "local", split), strict=True
        )
        for record, other in pairs:
            assert (record.video_id, record.frames) == (other.video_id, other.frames)
            assert record.captions == other.captions
            np.testing.assert_array_equal(record.timestamps, other.timestamps)
    assert not (tmp_path / "beam/.work").exists()


def test_by_beam_too_more_than_a_hundredth_skipped_is_an_error(videos, tmp_path, direct):
    with pytest.raises(ValueError, match=r"2 of 5 clips .* more than 1 %.*late\.mp4: unreadable"):
        build(videos, tmp_path, run=direct)

    assert not (tmp_path / "manifest.json").exists()
    done = {path.stat().st_mtime_ns for path in (tmp_path / ".work").glob("*.npz")}
    build(videos, tmp_path, run=direct, allow_missing=True)  # takes up the three that are done
    assert len(done) == 3 and json.loads((tmp_path / "manifest.json").read_text())["videos"] == 3


def test_an_unknown_runner_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ValueError, match="--runner Slurm: give one of DirectRunner, Dataflow"):
        beam.parallel_on("Slurm")
    monkeypatch.setattr(beam, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install 'xclip_jax"):
        beam.parallel_on("DirectRunner")
