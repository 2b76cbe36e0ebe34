"""Decoding in parallel: what is taken up, and what a killed build, worker or clip costs."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from rendered import render

from xclip_jax.data import clips as clips_module
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.build import build, build_benchmark
from xclip_jax.data.clips import Clip
from xclip_jax.data.processes import parallel
from xclip_jax.records import Shards


def decode(clips, work, **settings):
    work.mkdir(exist_ok=True)
    return clips_module.decode(
        clips, work, **{"policy": "clip4clip_1fps", "short_side": 24, "workers": 2} | settings
    )


def test_work_is_taken_up_only_under_the_same_settings_and_source(tmp_path):
    path = render(tmp_path / "a.mp4", 20)
    clip = Clip("a", path, ["a"])
    ((_, first),), _ = decode([clip], tmp_path / "work")
    stamp = first.stat().st_mtime_ns

    ((_, again),), _ = decode([clip._replace(captions=["b"])], tmp_path / "work")
    ((_, larger),), _ = decode([clip], tmp_path / "work", short_side=32)
    ((_, faster),), _ = decode([clip], tmp_path / "work", policy="clip4clip_2fps")
    ((_, window),), _ = decode([clip._replace(end=0)], tmp_path / "work")
    os.utime(path, ns=(1, 1))
    ((_, newer),), _ = decode([clip], tmp_path / "work")

    assert again == first and first.stat().st_mtime_ns == stamp
    assert len({first, larger, faster, window, newer}) == 5


def many(folder, count):
    """Returns clips of as many names of one file, each of some 20 ms of decoding."""
    first = render(folder / "0.mp4", 100, size=(192, 144))
    for i in range(1, count):
        os.link(first, folder / f"{i}.mp4")
    return [Clip(f"v{i}", folder / f"{i}.mp4", [f"number {i}"]) for i in range(count)]


BUILD = """
import sys
from pathlib import Path
from xclip_jax.data.build import Clip, build
if __name__ == "__main__":
    folder, count, out = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    clips = [Clip(f"v{i}", folder / f"{i}.mp4", [f"number {i}"]) for i in range(count)]
    build(clips, out, name="tiny", short_side=24, workers=2)
"""


def test_a_killed_build_goes_on_where_it_was_and_leaves_no_process(tmp_path):
    clips = many(tmp_path, 40)
    work = tmp_path / "out/.work"
    process = start(tmp_path, 40)
    wait(lambda: len(list(work.glob("*.npz"))) >= 5)
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait(lambda: not any(alive(worker) for worker in workers))
    done = {path: path.stat().st_mtime_ns for path in work.glob("*.npz")}

    decoded, skipped = decode(clips, work)

    assert workers and 5 <= len(done) < 40
    assert {path: path.stat().st_mtime_ns for path in done} == done  # not written again
    assert [clip for clip, _ in decoded] == clips and not skipped
    build(clips, tmp_path / "out", name="tiny", short_side=24)
    assert [record.video_id for record in Shards(tmp_path / "out", "train")] == [
        clip.video_id for clip in clips
    ]


BENCHMARK = """
import sys
from pathlib import Path
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.build import build_benchmark
if __name__ == "__main__":
    folder, count, out = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    texts = {str(i): [f"number {i}"] for i in range(count)}
    splits = {"train": texts, "test": {"3": texts["3"]}}
    videos = folder / "videos"
    build_benchmark(Benchmark("tiny", splits, {}), videos, out, short_side=24, workers=2)
"""


def test_a_killed_build_of_a_benchmark_ends_in_the_shards_of_one_that_was_not_killed(tmp_path):
    videos, work, again = tmp_path / "videos", tmp_path / "killed/.work", []
    videos.mkdir()
    many(videos, 30)
    texts = {str(i): [f"number {i}"] for i in range(30)}
    benchmark = Benchmark("tiny", {"train": texts, "test": {"3": texts["3"]}}, {})
    process = start(tmp_path, 30, BENCHMARK, "killed")
    wait(lambda: len(list(work.glob("*.npz"))) >= 5)
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait(lambda: not any(alive(worker) for worker in workers))
    done = set(work.glob("*.npz"))
    assert 5 <= len(done) < 30 and not (tmp_path / "killed/manifest.json").exists()

    def noted(decode, jobs, workers):
        again.extend(jobs)
        return parallel(decode, jobs, workers)

    manifests = [
        build_benchmark(benchmark, videos, tmp_path / out, short_side=24, workers=2, run=noted)
        for out in ("killed", "whole")
    ]

    assert len(again) == 60 - len(done) and not done & set(again)
    for manifest in manifests:  # TensorFlow orders a record's features as it likes
        manifest["sha256"] = set(manifest["sha256"])
    assert manifests[0] == manifests[1] and manifests[0]["videos"] == 30
    for split in ("train", "test"):
        records = [list(Shards(tmp_path / out, split)) for out in ("killed", "whole")]
        for record, other in zip(*records, strict=True):
            assert record._replace(timestamps=0) == other._replace(timestamps=0)


def start(folder, count, script=BUILD, out="out"):
    (folder / "build.py").write_text(script)
    command = [sys.executable, "build.py", str(folder), str(count), out]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)


def wait(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_worker_loses_nothing(tmp_path):
    clips = many(tmp_path, 20)
    killed = []

    def kill():
        wait(lambda: list(tmp_path.glob("*.npz")))
        killed.append(multiprocessing.active_children()[0].pid)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    decoded, skipped = decode(clips, tmp_path)
    thread.join()

    assert killed and not skipped
    assert [clip for clip, _ in decoded] == clips


def test_a_clip_that_takes_its_process_down_costs_that_clip_only(tmp_path):
    clips = many(tmp_path, 6)
    deadly = render(tmp_path / "deadly.mp4", 1500, size=(128, 96))
    clips.insert(2, Clip("deadly", deadly, ["deadly"]))
    finished = threading.Event()

    def kill_whoever_reads_it():
        while not finished.is_set():
            for child in multiprocessing.active_children():
                if str(deadly) in open_files(child.pid):
                    os.kill(child.pid, signal.SIGKILL)
            time.sleep(0.002)

    thread = threading.Thread(target=kill_whoever_reads_it)
    thread.start()
    try:
        decoded, (skipped,) = decode(clips, tmp_path, allow_missing=True)
    finally:
        finished.set()
        thread.join()

    assert skipped["id"] == "deadly"
    assert "unreadable (its decoding process died)" in skipped["reason"]
    assert len(decoded) == 6


def open_files(pid):
    found = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            found.add(os.readlink(entry))
    except OSError:
        pass
    return found


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    many(tmp_path, 1)
    (tmp_path / "build.py").write_text(BUILD.replace('if __name__ == "__main__":', "if True:"))

    run = subprocess.run(
        [sys.executable, "build.py", ".", "1", "out"], cwd=tmp_path, capture_output=True, text=True
    )

    assert run.returncode == 1
    assert "ValueError: The decoding processes do not start" in run.stderr
