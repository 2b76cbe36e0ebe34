"""Annotations, videos and shards at addresses: fetched, built, published and read by ranges."""

import json
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from rendered import render

from xclip_jax import remote
from xclip_jax.data import catalog, clips
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.build import build_benchmark
from xclip_jax.data.jsonl import jsonl_dataset_builder
from xclip_jax.records import Shards

# Two splits that share a video; `late` is broken, `gone` is nowhere.
SPLITS = {
    "train": {"owl": ["an owl"], "ape": ["an ape", "a monkey"], "bee": ["a bee"]},
    "test": {"ape": ["a monkey"], "late": ["too late"], "gone": ["gone"]},
}
BENCHMARK = Benchmark("tiny", SPLITS, {"train": (3, 4), "test": (3, 3)})


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deeper").mkdir()
    render(folder / "owl.mp4", 21, fps=10)
    render(folder / "ape.mp4", 35, fps=10)
    render(folder / "deeper" / "bee.mp4", 8, fps=10)
    (folder / "late.mp4").write_bytes(b"no video at all")
    (folder / "owl.json").write_text("{}")
    return folder


def build(videos, out, **settings):
    return build_benchmark(
        BENCHMARK, videos, out, short_side=24, workers=2, allow_missing=True, **settings
    )


@pytest.fixture(scope="module")
def local(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    build(videos, out)
    return out


@pytest.fixture
def memory():
    """A file system in this process, empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def same(record, other):
    return (
        record.video_id == other.video_id
        and record.captions == other.captions
        and record.frames == other.frames
        and np.array_equal(record.timestamps, other.timestamps)
    )


def test_a_build_between_addresses_gives_the_records_of_a_local_one(videos, local, tmp_path):
    # file:// goes the way of gs:// and s3://, and is one that the decoding processes reach too.
    out = f"file://{tmp_path}/shards"

    manifest = build(f"file://{videos}", out)

    for split in SPLITS:
        records, expected = Shards(out, split), Shards(local, split)
        assert len(records) == len(expected) > 0 and all(map(same, records, expected))
    known = json.loads((local / "manifest.json").read_text())
    assert manifest["splits"] == known["splits"] and manifest["sha256"] == known["sha256"]
    reasons = {line["id"]: line["reason"] for line in manifest["skipped"]}
    assert set(reasons) == {"late", "gone"}
    assert reasons["late"].startswith(f"file://{videos}/late.mp4: unreadable")
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {
        *manifest["sha256"],
        "manifest.json",
    }


def test_a_second_build_at_an_address_takes_up_what_is_there(videos, tmp_path, capsys):
    out = f"file://{tmp_path}/shards"
    build(f"file://{videos}", out)
    capsys.readouterr()

    build(f"file://{videos}", out)

    assert "already built" in capsys.readouterr().err


def test_copies_of_videos_are_gone_after_the_decoding(videos, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    (tmp_path / "work").mkdir()
    seen = []

    def here(work, jobs, workers):
        for key, job in jobs.items():
            yield key, work(*job)
            seen.append(os.listdir(tmp_path / "copies"))

    found = catalog.find(BENCHMARK, f"file://{videos}")
    listed = [clips.Clip(name, path, ["-"]) for name, path in found.items()]
    done, skipped = clips.decode(
        listed,
        tmp_path / "work",
        policy="clip4clip_1fps",
        short_side=24,
        allow_missing=True,
        run=here,
    )

    assert len(done) == 3 and len(skipped) == 1 and seen == [[]] * 4


def test_shards_are_read_by_ranges_and_their_checksums_looked_at(local, memory):
    for path in local.iterdir():
        memory.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    shards = Shards("memory://bucket", "train")
    expected = list(Shards(local, "train"))

    assert all(map(same, shards, expected))

    (name,) = (path for path in memory.ls("/bucket", detail=False) if "tfrecord" in path)
    data = bytearray(memory.cat_file(name))
    data[len(data) // 2] ^= 1
    memory.pipe_file(name, bytes(data))
    with pytest.raises(ValueError, match=r"memory://.*tfrecord.*checksum is wrong"):
        list(shards)
    memory.pipe_file(name, bytes(data[:50]))
    with pytest.raises(ValueError, match="truncated"):
        shards[2]
    memory.rm_file(name)
    with pytest.raises(ValueError, match="cannot be opened"):
        shards[0]


def test_an_address_without_shards_is_said_in_one_line(memory):
    with pytest.raises(FileNotFoundError, match=r"No manifest\.json in memory://nothing"):
        Shards("memory://nothing", "train")


def test_annotations_are_fetched_with_their_folders_and_go_away(memory):
    memory.pipe_file("/notes/a.json", b"[1]")
    memory.pipe_file("/notes/deep/b.txt", b"two")

    with remote.local_folder("memory://notes") as folder:
        found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*")}

    assert found == {"a.json": b"[1]", "deep/b.txt": b"two"} and not folder.exists()
    with (
        pytest.raises(FileNotFoundError, match="No files below memory://none"),
        remote.local_folder("memory://none"),
    ):
        pass


def test_a_list_and_its_clips_may_be_addresses_and_are_named_by_what_follows_the_root(memory):
    lines = [{"video": name, "captions": ["x"]} for name in ("a.mp4", "in/b.avi", "gs://c/d/e.mkv")]
    memory.pipe_file("/mine/clips.jsonl", "\n".join(map(json.dumps, lines)).encode())

    found = jsonl_dataset_builder.read_clips("memory://mine/clips.jsonl")

    assert {clip.video_id: str(clip.path) for clip in found} == {
        "a": "memory://mine/a.mp4",
        "in/b": "memory://mine/in/b.avi",
        "c/d/e": "gs://c/d/e.mkv",
    }


def test_a_file_that_is_written_anew_has_another_version(memory):
    memory.pipe_file("/clips/a.mp4", b"one")
    before = remote.version(remote.place("memory://clips/a.mp4"))
    memory.pipe_file("/clips/a.mp4", b"two")

    assert before[0] == 3 and remote.version(remote.place("memory://clips/a.mp4")) != before


def test_an_unknown_address_or_one_without_its_package_names_it():
    with pytest.raises(ValueError, match=r"nosuch://x: .*nosuch"):
        remote.place("nosuch://x").read_bytes()
    for scheme, package in (("gs", "gcsfs"), ("s3", "s3fs")):
        try:
            __import__(package)
        except ImportError:
            with pytest.raises(ValueError, match=f"pip install {package}"):
                remote.place(f"{scheme}://bucket/x").read_bytes()


def test_a_local_name_stays_a_path():
    assert remote.place("a/b") == Path("a/b") and not remote.is_remote("C:/x")
