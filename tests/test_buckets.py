"""Shards, checkpoints and an index in buckets that fail now and then, and in one that stays away.

The buckets are emulators behind a proxy (tests/stand_in_bucket.py), reached by the libraries that
reach real ones: gcsfs, s3fs, TensorStore, LanceDB.
"""

import asyncio
import types
import urllib.parse

import jax
import numpy as np
import pytest
import stand_in_bucket
from stand_in_bucket import RESET

from xclip_jax import checkpoint, lines, one_line, records, remote, retry
from xclip_jax.data import clips
from xclip_jax.index import store
from xclip_jax.runs import checkpoint_folder

FAULTS = [503, 429, 502, RESET]
PARAMS = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, np.float32)}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Pauses of fiftieths of a second and less, where gcsfs alone has half a minute of them."""
    gcsfs = pytest.importorskip("gcsfs.retry")
    slept = asyncio.sleep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            gcsfs, "asyncio", types.SimpleNamespace(sleep=lambda seconds: slept(seconds / 1000))
        )
        patch.setattr(retry, "FIRST", 0.02)
        patch.setenv(retry.SECONDS, "0.5")
        yield


def opened(kind: str):
    """Yields the bucket of an emulator, which this process then finds."""
    pytest.importorskip({"gs": "gcp_storage_emulator", "s3": "moto"}[kind])
    with getattr(stand_in_bucket, kind)() as bucket, pytest.MonkeyPatch.context() as patch:
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        yield bucket


@pytest.fixture(scope="module")
def gs_bucket():
    yield from opened("gs")


@pytest.fixture(scope="module")
def s3_bucket():
    pytest.importorskip("s3fs")
    yield from opened("s3")


@pytest.fixture
def gs(gs_bucket):
    gs_bucket.heal()
    yield gs_bucket
    gs_bucket.heal()


@pytest.fixture
def s3(s3_bucket):
    s3_bucket.heal()
    yield s3_bucket
    s3_bucket.heal()


@pytest.fixture(params=["gs", "s3"])
def bucket(request):
    return request.getfixturevalue(request.param)


def described(act) -> object:
    """Returns what `act` gives, or the kind of error that it raises."""
    try:
        return act()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_request_survives_a_short_failure(bucket, fault, tmp_path):
    file, copy = tmp_path / "x.bin", tmp_path / "copy.bin"
    file.write_bytes(bytes(range(200)))
    folder = remote.place(f"{bucket.address}/calls-{fault}")
    path = folder / "x.bin"
    steps = {
        "store": lambda: path.store(file),
        "read": lambda: path.read_bytes() == file.read_bytes(),
        "range": lambda: path.read_range(7, 5) == bytes(range(7, 12)),
        "fetch": lambda: path.fetch(copy) or copy.read_bytes() == file.read_bytes(),
        "info": lambda: (folder / "x.bin").info()["size"] == 200,
        "is_file": lambda: path.is_file() and not (folder / "none").is_file(),
        "is_dir": lambda: folder.is_dir() and not path.is_dir(),
        "files": lambda: [str(found) for found in folder.files()] == [str(path)],
        "unlink": path.unlink,
        "store again": lambda: path.store(file),
        "remove": folder.remove,
        "none left": lambda: folder.files() == [],
    }

    failed = {}
    for name, act in steps.items():
        before = bucket.failed
        bucket.fail(fault, times=2)
        assert act() in (None, True), name
        failed[name] = bucket.failed - before

    assert sum(count == 2 for count in failed.values()) >= 9, failed  # others come from a cache


def test_a_failure_that_lasts_is_said_to_pass_and_one_that_stays_is_not(bucket, tmp_path, capsys):
    file = tmp_path / "x.bin"
    file.write_bytes(b"x")
    path = remote.place(f"{bucket.address}/lasting/x.bin")
    path.store(file)
    acts = [path.read_bytes, path.is_file, path.is_dir, lambda: path.store(file), path.info]
    acts = [*acts, path.parent.files, lambda: path.read_range(0, 1)]

    for fault, some in [(503, acts), (RESET, acts[::3])]:
        bucket.fail(fault)
        for act in some:
            path.known = None
            remote.fsspec.core.url_to_fs(path.address)[0].invalidate_cache()
            with pytest.raises(retry.StorageUnavailable, match="cannot be reached") as caught:
                act()
            assert one_line.answer(caught.value) == 75
    bucket.fail(403)
    with pytest.raises(ValueError, match=f"^{path}: .*orbidden|busy") as caught:
        path.read_bytes()
    assert one_line.answer(caught.value) == 2
    bucket.heal()
    with pytest.raises(FileNotFoundError, match=r"^No .*/lasting/none\.$"):
        (path.parent / "none").read_bytes()
    assert all(line.startswith("xclip-jax: ") for line in capsys.readouterr().err.splitlines())


def test_a_bucket_that_does_not_answer_costs_no_line_of_the_metrics(bucket, tmp_path):
    place = remote.place(f"{bucket.address}/lines/metrics.jsonl")
    first = lines.Lines(place)
    first.start(0)
    first.add({"step": 2, "train/loss": 3.5})
    bucket.fail(503, times=2)
    first.upload()
    before = place.read_text()

    bucket.fail(503)
    with pytest.raises(retry.StorageUnavailable):
        lines.Lines(place).start(2)  # which drops what it does not find
    bucket.heal()
    lines.Lines(place).start(2)

    assert before == place.read_text() == '{"step": 2, "train/loss": 3.5}\n'


def test_shards_in_a_failing_bucket_give_the_records_of_a_disk(bucket, shapes):
    local = shapes / "shards"
    folder = remote.place(f"{bucket.address}/shards")
    for path in local.iterdir():
        (folder / path.name).store(path)
    expected = records.Shards(local, "test")
    asked = [0]

    def rule(request: str) -> int | None:
        asked[0] += 1
        return [503, RESET, None, 429, None, None][asked[0] % 6]

    before = bucket.failed
    bucket.rule(rule)
    found = records.Shards(str(folder), "test")
    read = [found[i] for i in range(len(found))]

    assert bucket.failed - before >= len(read)
    for record, same in zip(read, expected, strict=True):
        assert record.video_id == same.video_id and record.captions == same.captions
        assert record.frames == same.frames
        np.testing.assert_array_equal(record.timestamps, same.timestamps)


def test_a_clip_that_a_bucket_did_not_give_is_not_taken_for_a_broken_one(bucket, tmp_path):
    clip = clips.Clip("owl", remote.place(f"{bucket.address}/clips/owl.mp4"), ["an owl"])
    bucket.fail(503)

    with pytest.raises(retry.StorageUnavailable):
        clips._decode(clip, tmp_path / "owl.npz", "clip4clip_1fps", 24)
    with pytest.raises(retry.StorageUnavailable):
        clips.fingerprint(clip, policy="clip4clip_1fps", short_side=24)


def state(step: int) -> dict:
    params = jax.tree.map(lambda x: x * step, PARAMS)
    return {"params": params, "step": np.array(step, np.int32)}


def save(checkpointer, step: int, score: float | None) -> None:
    metrics = None if score is None else {checkpoint.BEST: score}
    checkpoint.save(checkpointer, state(step), metrics=metrics)
    checkpoint.wait(checkpointer)


def test_checkpoints_are_saved_kept_rated_and_restored_while_a_bucket_fails(gs):
    folder = f"{gs.address}/run"
    with checkpoint.open_folder(folder, keep=2) as checkpointer:
        for step, score, fault in [(1, 10, 503), (2, 90, RESET), (3, None, 429), (4, 20, 502)]:
            gs.fail(fault, times=2)
            save(checkpointer, step, score)
        gs.fail(503, times=2)
        checkpoint.rate(checkpointer, 3, {checkpoint.BEST: 95.0})
        gs.heal()
        assert checkpoint.best_step(checkpointer) == 3
        save(checkpointer, 5, 30)

    gs.fail(503, times=2)
    with checkpoint.open_folder(folder, keep=2) as checkpointer:
        found = [(c.step, c.metrics) for c in checkpointer.checkpoints]
        gs.fail(503, times=2)
        restored = checkpoint.restore(checkpointer, state(0))
    assert found == [
        (3, {checkpoint.BEST: 95.0}),
        (4, {checkpoint.BEST: 20}),
        (5, {checkpoint.BEST: 30}),
    ]
    jax.tree.map(np.testing.assert_array_equal, restored, state(5))
    gs.fail(429, times=2)
    params, step = checkpoint.load_params(folder, "best")
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, params, state(3)["params"])


@pytest.mark.parametrize("stage", ["ocdbt", "state%2F_METADATA", "upload.*commit_success"])
def test_a_half_written_checkpoint_is_neither_counted_nor_in_the_way(gs, stage):
    folder = f"{gs.address}/half-{len(stage)}"
    with checkpoint.open_folder(folder, keep=2) as checkpointer:
        save(checkpointer, 1, 10)
    names = checkpoint_folder.of(folder)

    checkpointer = checkpoint.open_folder(folder, keep=2)
    gs.fail(503, when=stage)
    with pytest.raises(retry.StorageUnavailable, match="could not be saved") as caught:
        save(checkpointer, 2, 20)
    gs.heal()
    assert str(caught.value).endswith("the last whole one is of step 1")
    assert one_line.answer(caught.value) == 75

    assert checkpoint_folder.whole_steps(names) == [1]
    assert checkpoint.load_params(folder)[1] == 1
    with checkpoint.open_folder(folder, keep=2) as checkpointer:  # as the next start does
        left = (remote.place(folder) / "checkpoints").files()
        assert {path.parent.name for path in left if path.name == "_CHECKPOINT_METADATA"} == {"1"}
        assert checkpointer.latest.step == 1
        jax.tree.map(
            np.testing.assert_array_equal, checkpoint.restore(checkpointer, state(0)), state(1)
        )
        save(checkpointer, 2, 20)
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.load_params(folder)[0], state(2)["params"]
    )


def test_orbax_writes_the_file_last_that_the_launcher_looks_for(gs):
    folder = f"{gs.address}/last"
    with checkpoint.open_folder(folder, keep=2) as checkpointer:
        gs.asked.clear()
        save(checkpointer, 7, 10)
        asked = [urllib.parse.unquote(request) for request in gs.asked]

    writes = [request for request in asked if request.startswith("POST") and "/7/" in request]
    assert "/checkpoints/7/commit_success.txt" in writes[-1]
    assert "/checkpoints/7/state/commit_success.txt" in " ".join(writes[:-1])


def test_a_checkpoint_that_a_bucket_does_not_give_is_not_called_damaged(gs):
    folder = f"{gs.address}/away"
    with checkpoint.open_folder(folder, keep=2) as checkpointer:
        save(checkpointer, 1, 10)

        for fault in (503, 502, RESET):
            gs.fail(fault)
            for act in (
                lambda: checkpoint.restore(checkpointer, state(0)),
                lambda: checkpoint.open_folder(folder, keep=2),
                lambda: checkpoint.load_params(folder),
            ):
                assert described(act) is retry.StorageUnavailable, fault
        gs.fail(403)
        with pytest.raises(ValueError, match="may not be read: Forbidden"):
            checkpoint.restore(checkpointer, state(0))
        gs.heal()


def test_a_run_at_s3_is_refused_before_it_trains():
    with pytest.raises(
        ValueError, match=r"s3://b/run: Orbax saves checkpoints on disks and at gs:"
    ):
        checkpoint.open_folder("s3://b/run", keep=2)


@pytest.mark.parametrize("fault", [503, 429, RESET])
def test_an_index_at_s3_survives_short_failures(s3, fault):
    place = f"{s3.address}/index-{fault}"
    shapes = {"video": ((4,), "f")}
    s3.fail(fault, times=2)
    assert not store.exists(place)
    s3.fail(fault, times=2)
    index = store.create(place, {"moment_frames": 0, "model": "m"}, shapes)
    for number in range(3):
        s3.fail(fault, times=2)
        index.videos.add(rows(number))
    s3.fail(fault, times=2)
    store.remove(index.videos, ["1.mp4"])
    s3.fail(fault, times=2)
    found = store.open_index(place)
    tables = list(store.scan(found, ["path", "video"], where=None, rows=10))

    assert sorted(p for t in tables for p in t["path"].to_pylist()) == ["0.mp4", "2.mp4"]
    assert found.facts["model"] == "m"


def rows(number: int):
    import pyarrow as pa

    video = pa.array([np.full(4, number, np.float16)], pa.list_(pa.float16(), 4))
    return pa.table({"path": [f"{number}.mp4"], "video": video})


def test_an_index_at_s3_that_stays_away_ends_with_75(s3):
    place = f"{s3.address}/index-away"
    index = store.create(place, {"moment_frames": 0, "model": "m"}, {"video": ((4,), "f")})

    for fault, act in [
        (503, lambda: index.videos.add(rows(1))),
        (RESET, lambda: store.exists(place)),
    ]:
        s3.fail(fault)
        with pytest.raises((retry.StorageUnavailable, RuntimeError, ValueError)) as caught:
            act()
        assert one_line.answer(caught.value) == 75
