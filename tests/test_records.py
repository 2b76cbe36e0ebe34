"""Random access to shards: any order, any thread, and every kind of damage named."""

import concurrent.futures
import json
import pickle
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from rendered import render
from tensorflow_datasets.core.utils import shard_utils

from xclip_jax.data.build import Clip, build
from xclip_jax.records import Shards


def clips(folder, caption):
    return [
        Clip(
            f"clip {i}",
            render(folder / f"{i}.mp4", 5 + 7 * i, fps=10),
            [f"{caption} {i} é", *(f"again {j}" for j in range(i % 3))],
        )
        for i in range(6)
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Six clips in three shards."""
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_utils.ShardConfig, "get_number_shards", lambda *_: 3)
        build(clips(folder, "number"), folder / "out", name="tiny", short_side=24)
    return folder / "out"


@pytest.fixture
def shards(built, tmp_path):
    """A copy to damage."""
    return shutil.copytree(built, tmp_path / "shards")


def test_any_record_can_be_had_in_any_order(built):
    shards = Shards(built, "train")

    assert len(shards) == 6 and len(list(built.glob("*.tfrecord*"))) == 3
    for i in (4, 0, 5, 2, 2, 1, 3, -1):
        record = shards[i]
        assert record.video_id == f"clip {i % 6}"
        assert record.captions == [f"number {i % 6} é", "again 0", "again 1"][: i % 3 + 1]
        assert len(record.frames) == len(record.timestamps) == -(-(5 + 7 * (i % 6)) // 10)
        assert all(jpeg.startswith(b"\xff\xd8") for jpeg in record.frames)
        assert record.timestamps.dtype == np.float32
    assert shards.captions_per_video.tolist() == [1, 2, 3, 1, 2, 3]
    assert shards.manifest["splits"]["train"]["present"] == 6


def test_numpy_numbers_index_and_a_loop_ends(built):
    shards = Shards(built, "train")

    assert shards[np.int64(3)].video_id == "clip 3"
    assert [record.video_id for record in shards] == [f"clip {i}" for i in range(6)]
    with pytest.raises(IndexError, match=r"6 videos in train, not \[6\]"):
        shards[6]


def test_threads_share_it_and_processes_get_their_own(built):
    shards = Shards(built, "train")
    order = [random.Random(i).randrange(6) for i in range(300)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = [record.video_id for record in pool.map(shards.__getitem__, order)]

    assert got == [f"clip {i}" for i in order]
    assert pickle.loads(pickle.dumps(shards))[2].video_id == "clip 2"


def test_reading_needs_neither_tensorflow_nor_jax(built):
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "jax"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
from xclip_jax import frames, records
record = records.Shards({str(built)!r}, "train")[5]
print(record.video_id, frames.stack(record.frames, max_frames=2, size=16)[1].sum())
"""

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert run.stdout == "clip 5 2\n", run.stderr


def damaged(folder, i):
    """Asserts that record i is refused by name, and that all others are still read."""
    shards = Shards(folder, "train")
    with pytest.raises(ValueError, match=rf"tiny-videos\.tfrecord-.* \(record {i} of train, byte"):
        shards[i]
    assert sum(readable(shards, j) for j in range(6)) == 5


def readable(shards, i):
    try:
        return shards[i].video_id == f"clip {i}"
    except ValueError:
        return False


def test_a_flipped_bit_anywhere_in_a_record_is_noticed(shards):
    index = np.load(shards / "index_train.npz")
    path = shards / str(index["files"][index["shard"][3]])
    whole = path.read_bytes()
    offset, length = int(index["offset"][3]), int(index["length"][3]) + 16
    rng = random.Random(0)

    for at in [*range(16), length - 1, *(rng.randrange(length) for _ in range(30))]:
        data = bytearray(whole)
        data[offset + at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)

        damaged(shards, 3)


@pytest.mark.parametrize("missing", [1, 4, 5, 17, 300])
def test_a_truncated_shard_is_named(shards, missing):
    path = sorted(shards.glob("*.tfrecord*"))[1]
    path.write_bytes(path.read_bytes()[:-missing])

    damaged(shards, 3)
    with pytest.raises(ValueError, match="truncated"):
        Shards(shards, "train")[3]


def test_a_missing_shard_is_named(shards):
    path = sorted(shards.glob("*.tfrecord*"))[2]
    path.unlink()

    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} cannot .*record 5 of train"):
        Shards(shards, "train")[5]


def test_shards_of_another_build_do_not_pass_for_their_own(shards, tmp_path):
    build(clips(tmp_path, "other")[::-1], tmp_path / "out", name="tiny", short_side=24)
    first = sorted(shards.glob("*.tfrecord*"))[0]
    (other,) = (tmp_path / "out").glob("*.tfrecord*")
    shutil.copyfile(other, first)

    with pytest.raises(ValueError, match="record 0 of train"):
        Shards(shards, "train")[0]


def test_shards_of_one_build_that_have_changed_places_are_noticed(shards):
    index = dict(np.load(shards / "index_train.npz"))
    index["shard"] = index["shard"][::-1]
    np.savez(shards / "index_train.npz", **index)

    with pytest.raises(ValueError, match="record 0 of train"):
        Shards(shards, "train")[0]


def test_a_damaged_index_is_named(shards):
    path = shards / "index_train.npz"
    path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(ValueError, match=r"index_train\.npz is damaged"):
        Shards(shards, "train")


def test_shards_of_an_earlier_format_ask_for_a_new_build(shards):
    manifest = json.loads((shards / "manifest.json").read_text())
    (shards / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))

    with pytest.raises(ValueError, match=r"format 1, this version reads 2: run `xclip-jax build`"):
        Shards(shards, "train")


def test_a_damaged_manifest_is_named(shards):
    (shards / "manifest.json").write_text('{"name": ')

    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        Shards(shards, "train")


def test_an_index_that_names_the_wrong_video_is_noticed(shards):
    index = dict(np.load(shards / "index_train.npz"))
    index["video_id"] = index["video_id"][::-1]
    np.savez(shards / "index_train.npz", **index)

    with pytest.raises(ValueError, match="holds 'clip 1' where the index has 'clip 4' with 2"):
        Shards(shards, "train")[1]


@pytest.mark.parametrize("name", ["manifest.json", "features.json"])
def test_an_unfinished_folder_says_what_to_do(shards, name):
    (shards / name).unlink()

    with pytest.raises(FileNotFoundError, match=f"No {name} in .*: not a folder of shards"):
        Shards(shards, "train")


def test_a_missing_index_and_an_unknown_split_are_named(shards):
    with pytest.raises(ValueError, match="has no split 'val', only train"):
        Shards(shards, "val")
    (shards / "index_train.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"index_train\.npz is missing"):
        Shards(shards, "train")
