"""Decodes clips to JPEG frames in parallel processes, one finished file each, resumably.

A file's name is the fingerprint of all that went into it, so that a killed build goes on where it
was and never takes up work done under other settings. Kept apart from the shard writer so that the
worker processes start without TensorFlow Datasets.
"""

import collections
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import PIL

from xclip_jax import frames, video

# A record must stay within what protocol buffers and memory can take.
MAX_CLIP_BYTES = 2**30


class Clip(NamedTuple):
    """One video, or a window of one, with its captions."""

    video_id: str
    path: Path
    captions: list[str]
    start: float | None = None
    end: float | None = None
    split: str = "train"


def fingerprint(clip: Clip, *, rate: int, short_side: int) -> str | None:
    """Returns a name for the clip's frames under these settings; None if its file is missing."""
    try:
        stat = os.stat(clip.path)
    except OSError:
        return None
    made_of = [
        [str(Path(clip.path).absolute()), stat.st_size, stat.st_mtime_ns, clip.start, clip.end],
        [rate, short_side, frames.JPEG_QUALITY, frames.JPEG_SUBSAMPLING],
        [av.__version__, PIL.__version__],
    ]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def load(path: Path) -> tuple[list[bytes], np.ndarray]:
    """Returns the JPEG frames and timestamps of a finished file."""
    with np.load(path, allow_pickle=False) as saved:
        ends = np.cumsum(saved["lengths"])
        data, timestamps = saved["data"].tobytes(), saved["timestamps"]
    return [data[end - n : end] for end, n in zip(ends, np.diff(ends, prepend=0), strict=True)], (
        timestamps
    )


def decode_all(
    jobs: dict[Path, Clip], *, rate: int, short_side: int, workers: int
) -> Iterator[tuple[Path, str | None]]:
    """Decodes each clip into its file; yields the file and what was wrong, None if nothing.

    A clip that takes its process down (a crash in the decoder, no memory left) costs that clip
    only: those under way at the time are tried again, each alone in a new process.
    """
    waiting = collections.deque(jobs)
    while waiting:
        suspects = []
        with _pool(min(workers, len(waiting))) as pool:
            running, broken = {}, False
            while running or (waiting and not broken):
                while waiting and not broken and len(running) < 2 * workers:
                    try:
                        task = pool.submit(_decode, jobs[waiting[0]], waiting[0], rate, short_side)
                    except futures.process.BrokenProcessPool:
                        broken = True
                    else:
                        running[task] = waiting.popleft()
                for task in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                    path = running.pop(task)
                    if isinstance(task.exception(), futures.process.BrokenProcessPool):
                        broken = True
                        suspects.append(path)
                    else:
                        yield path, task.result()
        for path in suspects:
            with _pool(1) as pool:
                task = pool.submit(_decode, jobs[path], path, rate, short_side)
                if isinstance(task.exception(), futures.process.BrokenProcessPool):
                    yield path, f"{jobs[path].path}: unreadable (its decoding process died)"
                else:
                    yield path, task.result()


def _pool(workers: int) -> futures.ProcessPoolExecutor:
    # Spawned, since a fork of a process that runs threads (JAX, ffmpeg) can deadlock.
    context = multiprocessing.get_context("spawn")
    return futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)


def _follow_parent() -> None:
    """Ends this process when the one that started it is killed; it would wait for work forever."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _decode(clip: Clip, path: Path, rate: int, short_side: int) -> str | None:
    try:
        jpegs, timestamps = [], []
        for image, time in video.sample(
            clip.path, rate=rate, start=clip.start, end=clip.end, short_side=short_side
        ):
            jpegs.append(frames.encode_jpeg(image))
            timestamps.append(time)
            if sum(map(len, jpegs)) > MAX_CLIP_BYTES:
                raise video.VideoError(clip.path, "unreadable", "more than 1 GiB of frames")
    except video.VideoError as error:
        return str(error)
    except ValueError as error:
        return f"{clip.path}: unreadable ({error})"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with open(partial, "wb") as file:
        np.savez(
            file,
            data=np.frombuffer(b"".join(jpegs), np.uint8),
            lengths=np.array([len(jpeg) for jpeg in jpegs], np.int64),
            timestamps=np.array(timestamps, np.float32),
        )
    os.replace(partial, path)
    return None
