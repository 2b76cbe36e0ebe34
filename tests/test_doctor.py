"""The examination of shards: silence over whole ones, and every kind of damage by its name."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from rendered import render
from tensorflow_datasets.core.utils import shard_utils

from xclip_jax import cli, doctor
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.build import build_benchmark


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Five videos in three shards; two splits share two of them."""
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "videos").mkdir()
    for i in range(5):
        render(folder / f"videos/clip{i}.mp4", 5 + 9 * i, fps=10)
    splits = {
        "train": {f"clip{i}": [f"number {i}", f"the {i}"] for i in (3, 0, 1, 2)},
        "test": {f"clip{i}": [f"the {i}"] for i in (2, 4, 3)},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_utils.ShardConfig, "get_number_shards", lambda *_: 3)
        build_benchmark(
            Benchmark("tiny", splits, {}), folder / "videos", folder / "out", short_side=24
        )
    return folder / "out"


@pytest.fixture
def shards(built, tmp_path):
    """A copy to damage."""
    return shutil.copytree(built, tmp_path / "shards")


def sign(folder):
    """Brings the manifest's checksums up to date, as if the build had written this."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["sha256"]:
        manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_index(folder, split="train", **arrays):
    path = folder / f"index_{split}.npz"
    np.savez(path, **(dict(np.load(path)) | arrays))
    sign(folder)


def place(folder, video_id):
    """Returns the file of a record, its offset and its length."""
    index = np.load(folder / "index_train.npz")
    (i,) = np.flatnonzero(index["video_id"] == video_id)
    return (
        folder / str(index["files"][index["shard"][i]]),
        int(index["offset"][i]),
        int(index["length"][i]),
    )


def test_whole_shards_have_no_problem_and_each_record_is_read_once(built):
    report = doctor.examine(built, samples=3)

    assert report.problems == []
    assert report.splits == {"train": (4, 8), "test": (3, 3)}
    assert report.videos == 5
    assert report.frames == sum(-(-(5 + 9 * i) // 10) for i in range(5))
    ids = [sample.record.video_id for sample in report.samples]
    assert len(set(ids)) == 3
    assert ids == [s.record.video_id for s in doctor.examine(built, samples=3).samples]


def test_a_flipped_bit_is_named_with_file_and_record(shards):
    path, offset, length = place(shards, "clip2")
    data = bytearray(path.read_bytes())
    data[offset + 12 + length // 2] ^= 8
    path.write_bytes(data)

    problems = doctor.examine(shards, samples=9).problems

    assert len(problems) == 2
    assert problems[0] == f"{path.name}: its sha256 is not the manifest's, the file has changed"
    assert path.name in problems[1] and "checksum is wrong (record 3 of train, byte" in problems[1]


def test_all_problems_are_reported_together(shards):
    gone, cut, spare = sorted(shards.glob("*.tfrecord*"))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-3])
    shutil.copyfile(spare, shards / "tiny-other.tfrecord-00000-of-00001")
    (shards / "index_test.npz").write_bytes(b"PK")

    problems = "\n".join(doctor.examine(shards, samples=9).problems)

    assert f"{gone.name}: missing" in problems and problems.count(gone.name) == 1
    assert f"{cut.name}: its sha256 is not" in problems and "truncated" in problems
    assert "tiny-other.tfrecord-00000-of-00001: the manifest does not know" in problems
    assert "index_test.npz is damaged" in problems


def test_an_index_is_compared_with_the_manifest_and_the_records(shards):
    index = dict(np.load(shards / "index_train.npz"))
    per_video = {name: index[name][:3] for name in index if len(index[name]) == 4}
    change_index(shards, **per_video, caption=index["caption"][:6])

    problems = doctor.examine(shards, samples=1).problems

    assert "index_train.npz: (3, 6) videos and captions, the manifest has (4, 8)" in problems[0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"video_id": ["clip3", "clip0", "clip2", "clip1"]}, "holds 'clip1' where the index has"),
        ({"video_id": ["clip3", "clip0", "clip0", "clip2"]}, "'clip0' is in it 2 times"),
        ({"stored": [2, 2, 1, 2]}, "captions that its records do not have"),
        ({"shard": [0, 1, 7, 2]}, "a file that is not among its 3"),
        ({"offset": [0, 0]}, "2 of offset for 4 videos"),
        ({"caption": [0, 1, 1]}, "3 captions listed of 8"),
    ],
)
def test_an_index_that_cannot_be_is_named(shards, change, message):
    change_index(shards, **{name: np.array(values) for name, values in change.items()})

    problems = doctor.examine(shards, samples=1).problems

    assert any(message in problem for problem in problems), problems


def test_a_record_that_no_split_has_is_counted(shards):
    index = dict(np.load(shards / "index_test.npz"))
    keep = [0, 2]  # clip4 is in no other split
    per_video = {name: index[name][keep] for name in ("shard", "offset", "length", "video_id")}
    per_video |= {name: index[name][keep] for name in ("captions", "stored", "caption")}
    change_index(shards, "test", **per_video)

    problems = doctor.examine(shards, samples=1).problems

    assert any("1 records that no index has" in problem for problem in problems)


def record(**changes):
    from xclip_jax import frames, records

    jpeg = frames.encode_jpeg(Image.new("RGB", (36, 24)))
    whole = records.Record("a", [jpeg] * 3, np.float32([0, 1, 2]), ["a cat"])
    return whole._replace(**changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, None),
        ({"timestamps": np.float32([0, 1, 1])}, None),  # some policies repeat a frame
        ({"timestamps": np.float32([0, 2, 1])}, "timestamps do not ascend"),
        ({"timestamps": np.float32([0, np.nan, 1])}, "timestamps do not ascend"),
        ({"timestamps": np.float32([0, 1])}, "3 frames but 2 timestamps"),
        ({"frames": [], "timestamps": np.float32([])}, "no frames"),
        ({"captions": ["a cat", " "]}, "an empty caption"),
        ({"frames": [b"GIF89a"], "timestamps": np.float32([0])}, "frame 0 is no JPEG image"),
    ],
)
def test_what_a_record_must_be(changes, message):
    problems = doctor._record(record(**changes), 24)

    assert (message is None and problems == []) or (message in problems[0])


def test_the_size_of_every_frame_is_compared_with_the_policy():
    (problem,) = doctor._record(record(), 32)

    assert problem == "frame 0 has 36 x 24 pixels, the manifest says 32 for the shorter side"


def test_a_frame_cut_short_is_found_by_decoding():
    jpeg = record().frames[0]
    (problem,) = doctor._decode(record(frames=[jpeg, jpeg[: len(jpeg) * 2 // 3]]))

    assert problem.startswith("frame 1 cannot be decoded: Not a whole JPEG image")


def test_the_command_draws_a_sheet_and_exits_with_one_if_anything_is_wrong(
    shards, tmp_path, capsys
):
    command = ["doctor", str(shards), "--out", str(tmp_path / "sheet.png"), "--samples", "4"]

    cli.main(command)
    said = capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and len(sheet.convert("L").getcolors()) > 20
    assert "train: 4 videos, 8 captions" in said and "no problem found" in said

    (shards / "index_test.npz").unlink()
    with pytest.raises(SystemExit) as caught:
        cli.main(command)
    assert caught.value.code == 1
    assert "index_test.npz is missing" in capsys.readouterr().out


def test_a_folder_without_shards_is_a_mistake_of_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", str(tmp_path)])

    assert caught.value.code == 2
    assert "No manifest.json in" in capsys.readouterr().err
