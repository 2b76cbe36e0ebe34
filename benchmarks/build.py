"""How fast clips become stored frames, against OpenCV and against decoding alone: a JSON line.

python benchmarks/build.py [--videos FOLDER] [--workers 2] [--repeats 3]

Without a folder it renders clips of its own. Three ways through the same files, in the same number
of processes: `ours` is the first stage of `xclip-jax build`, from clips to finished files; `opencv`
is the usual extractor, which seeks to the frame of each second, reads and resizes it and stores the
same JPEG; `decoding` has every frame decoded by PyAV and thrown away.
"""

import argparse
import collections
import contextlib
import io
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
from decode import CLIPS, render
from PIL import Image

from xclip_jax import frame_policy, frames
from xclip_jax.data import clips
from xclip_jax.data.processes import cores

SIDE = 224


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="a folder of clips, instead of rendered ones")
    parser.add_argument("--workers", type=int, default=cores(), help="processes (default: cores)")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    if not find_spec("cv2"):
        print("benchmarks/build.py needs: pip install opencv-python-headless", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        paths = sorted(args.videos.rglob("*")) if args.videos else rendered(work)
        paths = [path for path in paths if path.suffix.lower() in (".mp4", ".avi", ".mkv", ".gif")]
        measure_all(paths, work, args.workers, args.repeats)


def measure_all(paths: list[Path], work: Path, workers: int, repeats: int) -> None:
    """Runs the three ways in turns and prints their medians, their ratios and the difference."""
    from measure import report, spread  # not above: the processes need no JAX

    ways = {"ours": ours, "opencv": opencv, "decoding": decoding}
    wall, cpu = {way: [] for way in ways}, {way: [] for way in ways}
    stored = {}
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        for way in (decode_all, seek_each_second):  # imports and starts before the clock does
            list(pool.map(way, *zip(*[(paths[0], work / "none.npz")] * 2 * workers, strict=True)))
        for i in range(repeats):
            for name, way in ways.items():
                (work / f"{name}{i}").mkdir()
                run = Run(pool)
                start = time.perf_counter()
                stored[name] = way(paths, work / f"{name}{i}", run)
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(run.cpu_seconds)
    seconds = {name: statistics.median(values) for name, values in wall.items()}
    used = {name: statistics.median(values) for name, values in cpu.items()}
    report(
        "build",
        clips=len(paths),
        workers=workers,
        seconds={name: spread(values, 2) for name, values in wall.items()},
        clips_per_second={name: round(len(paths) / x, 3) for name, x in seconds.items()},
        times_faster_than_opencv=round(seconds["opencv"] / seconds["ours"], 2),
        times_of_decoding=round(seconds["ours"] / seconds["decoding"], 2),
        # Of processor seconds, which the rest of a busy machine changes less.
        cpu_seconds={name: round(x, 2) for name, x in used.items()},
        cpu_times_faster_than_opencv=round(used["opencv"] / used["ours"], 2),
        cpu_times_of_decoding=round(used["ours"] / used["decoding"], 2),
        **difference(stored["ours"], stored["opencv"]),
    )


class Run:
    """Does jobs in processes that have started, as `clips.decode` takes it; adds up their time."""

    def __init__(self, pool: futures.ProcessPoolExecutor):
        self.pool, self.cpu_seconds = pool, 0.0

    def __call__(self, work: Callable, jobs: dict, workers: int | None = None) -> Iterator[tuple]:
        tasks = {self.pool.submit(spent, work, job): key for key, job in jobs.items()}
        for task in futures.as_completed(tasks):
            result, seconds = task.result()
            self.cpu_seconds += seconds
            yield tasks[task], result


def spent(work: Callable, job: tuple) -> tuple[object, float]:
    """Returns what a job returns, and the seconds of processor that it took."""
    before = time.process_time()
    return work(*job), time.process_time() - before


def ours(paths: list[Path], work: Path, run: Run) -> dict[Path, Path]:
    """Decodes as a build does; returns the finished file of each clip."""
    listed = [clips.Clip(str(path), path, ["-"]) for path in paths]
    settings = {"policy": frame_policy.DEFAULT, "short_side": SIDE, "allow_missing": True}
    with contextlib.redirect_stderr(io.StringIO()):
        done, _ = clips.decode(listed, work, **settings, run=run)
    return {clip.path: file for clip, file in done}


def opencv(paths: list[Path], work: Path, run: Run) -> dict[Path, Path]:
    """Extracts with a seek a second; returns the file of each clip."""
    jobs = {path: (path, work / f"{i}.npz") for i, path in enumerate(paths)}
    wrong = {path for path, problem in run(seek_each_second, jobs) if problem}
    return {path: file for path, (_, file) in jobs.items() if path not in wrong}


def decoding(paths: list[Path], work: Path, run: Run) -> dict[Path, Path]:
    """Decodes every frame and throws it away."""
    for _ in run(decode_all, {path: (path, None) for path in paths}):
        pass
    return {}


def seek_each_second(path: Path, file: Path) -> str | None:
    """Extracts one clip as the references do, with OpenCV; returns what was wrong."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    fps, count = int(capture.get(cv2.CAP_PROP_FPS)), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if fps < 1:
        return "no frame rate"
    jpegs = []
    for second in range(-(-count // fps) + 1):
        capture.set(cv2.CAP_PROP_POS_FRAMES, second * fps)
        there, frame = capture.read()
        if not there:
            break
        image = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        jpegs.append(frames.encode_jpeg(frames.resize_short_side(image, SIDE)))
    lengths = np.array([len(jpeg) for jpeg in jpegs], np.int64)
    timestamps = np.arange(len(jpegs), dtype=np.float32)
    data = np.frombuffer(b"".join(jpegs), np.uint8)
    np.savez(file, data=data, lengths=lengths, timestamps=timestamps)
    return None


def decode_all(path: Path, _: Path | None) -> None:
    with contextlib.suppress(av.FFmpegError), av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"  # as ours: there is a process for each core
        for _ in container.decode(stream):
            pass


def difference(ours: dict[Path, Path], theirs: dict[Path, Path]) -> dict:
    """Returns how many frames both stored, how many are equal, and the PSNR of the others."""
    both, equal, psnr, counts, others = 0, 0, [], {}, collections.Counter()
    for path in ours.keys() & theirs.keys():
        mine, other = clips.load(ours[path])[0], clips.load(theirs[path])[0]
        if len(mine) != len(other):
            counts[path.name] = [len(mine), len(other)]
        for a, b in zip(mine, other, strict=False):
            both += 1
            equal += a == b
            others[path.name] += a != b
            if a != b:
                pixels = [np.asarray(frames.decode_jpeg(jpeg), np.float32) for jpeg in (a, b)]
                if pixels[0].shape != pixels[1].shape:
                    counts[path.name] = [list(p.shape) for p in pixels]
                    continue
                error = np.mean((pixels[0] - pixels[1]) ** 2)
                psnr.append(round(float(10 * np.log10(255**2 / max(error, 1e-9))), 1))
    found = {"frames": both, "equal_frames": equal, "other_counts": counts}
    found["other_frames"] = {name: count for name, count in others.items() if count}
    if psnr:
        found["psnr_of_others"] = {"median": statistics.median(psnr), "min": min(psnr)}
    return found


def rendered(folder: Path) -> list[Path]:
    paths = []
    for _, codec, width, height, fps in CLIPS:
        paths.append(folder / f"{codec}{width}.mkv")
        render(paths[-1], codec, width, height, fps)
    return paths


if __name__ == "__main__":
    main()
