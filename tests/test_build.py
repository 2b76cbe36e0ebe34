"""From video files to shards: what is written, what is recorded, what is skipped."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from rendered import number, render
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.utils import shard_utils

from xclip_jax import frames, video
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.build import Clip, build, build_benchmark
from xclip_jax.records import Shards


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Seven clips of different lengths, in two splits that take turns, twins by their order."""
    folder = tmp_path_factory.mktemp("videos")
    names = ["zebra", "ape", "fish", "owl", "bee", "cat", "dog"]
    return [
        Clip(
            name,
            render(folder / f"{name}.mp4", 10 + 9 * i, fps=10),
            [f"{name} number {j}" for j in range(1 + i % 3)],
            split="test" if i % 2 else "train",
        )
        for i, name in enumerate(names)
    ]


def small(clips, out, **settings):
    return build(clips, out, **{"name": "tiny", "short_side": 24, "workers": 2} | settings)


@pytest.fixture(scope="module")
def shards(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    small(videos, out, source="rendered")
    return out


def counts(**known):
    """Returns a split's line of the manifest, for clips that no protocol has published."""
    return {"official": None, "complete": False} | known


def read(folder, split):
    return list(Shards(folder, split))


def same(record, other):
    return (
        record.video_id == other.video_id
        and record.captions == other.captions
        and record.frames == other.frames
        and np.array_equal(record.timestamps, other.timestamps)
    )


def test_records_hold_the_sampled_frames_in_the_order_of_the_list(videos, shards):
    for split in ("train", "test"):
        expected = [clip for clip in videos if clip.split == split]

        records = read(shards, split)

        assert [record.video_id for record in records] == [clip.video_id for clip in expected]
        for clip, record in zip(expected, records, strict=True):
            images, timestamps = video.read(clip.path, short_side=24)
            assert record.frames == [frames.encode_jpeg(image) for image in images]
            assert record.captions == clip.captions
            np.testing.assert_array_equal(record.timestamps, timestamps)


def test_the_manifest_states_what_was_built(videos, shards):
    manifest = json.loads((shards / "manifest.json").read_text())

    assert manifest["source"] == "rendered" and manifest["skipped"] == []
    assert manifest["splits"] == {
        "train": counts(listed=4, present=4, captions=7),
        "test": counts(listed=3, present=3, captions=6),
    }
    assert manifest["frame_policy"] == {
        "name": "clip4clip_1fps",
        "short_side": 24,
        "jpeg_quality": 95,
        "jpeg_subsampling": "4:2:0",
    }
    assert set(manifest["versions"]) == {"xclip_jax", "av", "pillow", "tensorflow-datasets"}
    there = {path.name for path in shards.iterdir()} - {"manifest.json"}
    assert set(manifest["sha256"]) == there and ".work" not in there
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((shards / name).read_bytes()).hexdigest() == digest


def test_tfds_reads_the_folder_as_one_of_its_own(videos, shards):
    dataset = tfds.builder_from_directory(str(shards)).as_dataset(split="videos")

    examples = {example["video_id"].decode(): example for example in tfds.as_numpy(dataset)}

    # Every video once, those of the first split first: a split is read from one end to the other.
    order = ["zebra", "fish", "bee", "dog", "ape", "owl", "cat"]
    assert list(examples) == order
    for record in read(shards, "train") + read(shards, "test"):
        example = examples[record.video_id]
        assert list(example["frames"]) == record.frames
        assert [caption.decode() for caption in example["captions"]] == record.captions


def test_many_shards_written_by_way_of_the_disk_keep_the_order(
    videos, shards, tmp_path, monkeypatch
):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 2000)
    monkeypatch.setattr(shard_utils.ShardConfig, "min_shard_size", 1000)

    small(videos, tmp_path)

    assert len(list(tmp_path.glob("tiny-videos.tfrecord-*-of-00004"))) == 4
    for split in ("train", "test"):
        assert all(map(same, read(tmp_path, split), read(shards, split)))


def test_the_number_of_workers_changes_nothing(videos, shards, tmp_path):
    small(videos, tmp_path, workers=1)

    for split in ("train", "test"):
        assert all(map(same, read(tmp_path, split), read(shards, split)))


def test_a_window_and_a_rate_choose_the_frames(tmp_path, videos):
    clip = Clip("dog", videos[-1].path, ["a dog"], 2, 4)

    small([clip], tmp_path, policy="clip4clip_2fps")

    (record,) = read(tmp_path, "train")
    numbers = [number(frames.decode_jpeg(jpeg)) for jpeg in record.frames]
    assert numbers == [20, 25, 30, 35, 40, 45]
    np.testing.assert_allclose(record.timestamps, [2, 2.5, 3, 3.5, 4, 4.5])


def test_a_finished_build_is_not_done_again(videos, shards, capsys):
    before = {path: path.stat().st_mtime_ns for path in shards.iterdir()}

    manifest = small(videos, shards, source="rendered")

    assert manifest == json.loads((shards / "manifest.json").read_text())
    assert "already built" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def test_a_changed_caption_or_name_replaces_the_shards(videos, tmp_path):
    small(videos, tmp_path)
    changed = [clip._replace(captions=["anew"]) for clip in videos]

    small(changed, tmp_path, name="other")

    assert {record.captions[0] for record in read(tmp_path, "train")} == {"anew"}
    assert not list(tmp_path.glob("tiny*"))


def test_a_vocabulary_is_laid_beside_the_shards(videos, tmp_path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")

    manifest = small(videos[:1], tmp_path / "out", vocab=tmp_path / "merges.txt")

    assert (tmp_path / "out/merges.txt").read_text() == "#version: 0.2\na b\n"
    assert manifest["vocab"] == "merges.txt"


@pytest.fixture
def bad(tmp_path):
    """One clip for each reason to skip."""
    broken, slow, sound = (tmp_path / name for name in ("broken.mp4", "slow.mp4", "short.mp4"))
    broken.write_bytes(bytes(range(256)) * 9)
    render(slow, 3, fps=0.5)
    render(sound, 5)
    return [
        Clip("gone", tmp_path / "gone.mp4", ["gone"]),
        Clip("broken", broken, ["broken"]),
        Clip("late", sound, ["late"], 7, 9),
        Clip("slow", slow, ["slow"]),
    ]


def test_skipped_clips_are_printed_with_reasons_and_fail_the_build(videos, bad, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"4 of 11 clips .* more than 1 %.*--allow-missing"):
        small([*videos, *bad], tmp_path / "out")

    printed = capsys.readouterr().err
    for line in (
        r"skipped gone: .*gone\.mp4: missing",
        r"skipped broken: .*broken\.mp4: unreadable \(",
        r"skipped late: .*short\.mp4: zero frames \(7 to 9 s",
        r"skipped slow: .*slow\.mp4: zero fps",
    ):
        assert re.search(line, printed)
    assert not (tmp_path / "out/manifest.json").exists()


def test_with_allow_missing_the_rest_is_built_and_the_skipped_are_recorded(videos, bad, tmp_path):
    small([*videos, *bad], tmp_path / "out", allow_missing=True)

    shards = Shards(tmp_path / "out", "train")
    assert [record.video_id for record in shards] == ["zebra", "fish", "bee", "dog"]
    assert shards.manifest["splits"]["train"] == counts(listed=8, present=4, captions=7)
    assert [clip["id"] for clip in shards.manifest["skipped"]] == ["gone", "broken", "late", "slow"]


def test_the_error_lists_ten_skipped_clips_and_their_count(tmp_path):
    clips = [Clip(f"v{i}", tmp_path / f"{i}.mp4", ["x"]) for i in range(13)]

    with pytest.raises(ValueError, match=r"v9: .*; and 3 more, 13 in all") as caught:
        small(clips, tmp_path / "out")

    assert "v10" not in str(caught.value)


def test_splits_share_the_frames_of_a_video_and_keep_their_own_captions(tmp_path):
    for i in range(3):
        render(tmp_path / f"v{i}.mp4", 10 + 10 * i, fps=10)
    benchmark = Benchmark(
        "msvd",
        {
            "train": {"v0": ["a", "b"], "v1": ["c", "c", "d"]},
            "val": {"v2": ["e"], "v1": ["d", "f"], "v0": ["b"]},
        },
        {"train": (2, 5), "val": (3, 5)},
        {"v2": (1, 2)},
        notes=("a note",),
    )

    manifest = build_benchmark(benchmark, tmp_path, tmp_path / "out", short_side=24, workers=1)

    assert manifest["splits"] == {
        "train": {"official": [2, 5], "listed": 2, "present": 2, "captions": 5, "complete": True},
        "val": {"official": [3, 5], "listed": 3, "present": 3, "captions": 4, "complete": False},
    }
    assert manifest["videos"] == 3 and manifest["notes"] == ["a note"]
    assert len(list((tmp_path / "out").glob("*.tfrecord*"))) == 1
    train, val = read(tmp_path / "out", "train"), read(tmp_path / "out", "val")
    assert [(r.video_id, r.captions) for r in train] == [
        ("v0", ["a", "b"]),
        ("v1", ["c", "c", "d"]),
    ]
    assert [(r.video_id, r.captions) for r in val] == [
        ("v2", ["e"]),
        ("v1", ["d", "f"]),
        ("v0", ["b"]),
    ]
    assert val[1].frames == train[1].frames and val[0].timestamps.tolist() == [1, 2]


def test_a_split_without_any_clip_left_is_left_out_and_named(videos, tmp_path, capsys):
    clips = [*videos, Clip("gone", tmp_path / "gone.mp4", ["gone"], split="val")]

    manifest = small(clips, tmp_path / "out", allow_missing=True)

    assert list(manifest["splits"]) == ["train", "test"]
    assert manifest["notes"] == ["left out val: every clip of it had to be skipped"]
    assert manifest["notes"][0] in capsys.readouterr().err
    assert not (tmp_path / "out/index_val.npz").exists()


def test_a_build_without_any_clip_left_is_an_error(tmp_path):
    clips = [Clip("gone", tmp_path / "gone.mp4", ["gone"], split="val")]

    with pytest.raises(ValueError, match="Every clip of val had to be skipped"):
        small(clips, tmp_path / "out", allow_missing=True)


def test_data_that_end_early_are_recorded(tmp_path):
    path = render(tmp_path / "a.mp4", 100, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])

    manifest = small([Clip("a", path, ["a"])], tmp_path / "out")

    (early,) = manifest["ended_early"]
    assert early["id"] == "a" and early["planned"] == 4 and early["frames"] < 4


FULL = """
import resource, sys
from pathlib import Path
from xclip_jax.data.build import Clip, build
if __name__ == "__main__":
    folder, most = Path(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    clips = [Clip(f"v{i}", path, ["x"]) for i, path in enumerate(sorted(folder.glob("*.mp4")))]
    try:
        build(clips, "out", name="tiny", workers=1)
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize("whole_clips", [False, True])
def test_a_full_disk_is_one_line_and_the_next_build_goes_on(whole_clips, tmp_path):
    for i in range(4):
        render(tmp_path / f"{i}.mp4", 30 + i, fps=10, size=(96, 64))
    (tmp_path / "build.py").write_text(FULL)

    def run(most):
        command = [sys.executable, "build.py", ".", str(most)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    # No file may be longer than this: too short for a clip's frames, or only for all of them.
    failed = run(20_000 if whole_clips else 3000)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/.work/*.npz")}

    assert re.search("out cannot be written: File too large. Make room", failed.stdout)
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "out/manifest.json").exists()
    assert not list(tmp_path.glob("out/.work/*.partial")) and len(done) == 4 * whole_clips
    finished = run(10**9)
    assert not finished.stdout and len(Shards(tmp_path / "out", "train")) == 4
    assert "100%" in finished.stderr and read(tmp_path / "out", "train")[3].video_id == "v3"


def test_problems_of_the_clips_are_reported_together(videos, tmp_path):
    clips = [
        *videos,
        videos[0],
        videos[1]._replace(video_id="mute", captions=[]),
        videos[1]._replace(video_id="blank", captions=["x", "\t"]),
        videos[1]._replace(video_id="odd", split="te st"),
        videos[1]._replace(video_id="everything", split="all"),
    ]

    with pytest.raises(ValueError) as caught:
        small(clips, tmp_path / "out")

    for part in (
        "'zebra': 2 clips",
        "'mute': no caption",
        "'blank': no caption",
        "'te st'",
        "'all'",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_wrong_name_or_vocabulary_is_named(videos, tmp_path):
    with pytest.raises(ValueError, match="name='My clips'"):
        small(videos, tmp_path / "out", name="My clips")
    with pytest.raises(FileNotFoundError, match=r"No vocabulary file .*none\.txt"):
        small(videos, tmp_path / "out", vocab=tmp_path / "none.txt")
