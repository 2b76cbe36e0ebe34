"""Clips, and their frames as JPEG: decoded in parallel, one finished file each, resumably.

A file's name is the fingerprint of all that went into it, so that a killed build goes on where it
was and never takes up work done under other settings. Kept apart from the shard writer so that the
worker processes start without TensorFlow Datasets.
"""

import collections
import hashlib
import json
import re
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import PIL
from tqdm import tqdm

from xclip_jax import frames, remote, retry, video
from xclip_jax.data import index
from xclip_jax.data.benchmark import Benchmark, videos
from xclip_jax.data.processes import parallel
from xclip_jax.remote import RemotePath

MAX_SKIPPED = 0.01
# A record must stay within what memory and protocol buffers can take.
MAX_CLIP_BYTES = 2**30


class Clip(NamedTuple):
    """One video, or a window of one in seconds, with its captions; no path where it is missing."""

    video_id: str
    path: Path | RemotePath | None
    captions: list[str]
    start: float | None = None
    end: float | None = None
    split: str = "train"


def of_benchmark(benchmark: Benchmark, paths: dict[str, Path | RemotePath]) -> list[Clip]:
    """Returns every video of a benchmark once, with the captions of all its splits."""
    return [
        Clip(
            video_id,
            paths.get(video_id),
            captions,
            *benchmark.windows.get(video_id, (None, None)),
            split=index.VIDEOS,
        )
        for video_id, captions in videos(benchmark).items()
    ]


def problems(clips: list[Clip]) -> list[str]:
    """Returns what is wrong with a list of clips, a line each."""
    found = [] if clips else ["it has no clips"]
    for video_id, count in collections.Counter(clip.video_id for clip in clips).items():
        if count > 1:
            found.append(f"id {video_id!r}: {count} clips have it, each needs its own")
    for clip in clips:
        if not clip.video_id:
            found.append(f"{clip.path}: its id is empty")
        if not clip.captions or not all(caption.strip() for caption in clip.captions):
            found.append(f"id {clip.video_id!r}: no caption, or an empty one")
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", clip.split) or clip.split == "all":
            found.append(
                f"id {clip.video_id!r}: split {clip.split!r} is no name of letters, digits and _"
            )
        if (clip.start or 0) < 0 or (clip.end is not None and clip.end < (clip.start or 0)):
            found.append(f"id {clip.video_id!r}: no window from {clip.start} to {clip.end} seconds")
    return found


def several(lines: list[str]) -> str:
    """Returns the lines in one, ten at most and then the count."""
    rest = f"; and {len(lines) - 10} more, {len(lines)} in all" if len(lines) > 10 else ""
    return "; ".join(lines[:10]) + rest


def fingerprint(clip: Clip, *, policy: str, short_side: int) -> str | None:
    """Returns a name for the clip's frames under these settings; None if its file is missing."""
    try:
        path = remote.place(clip.path)
        version = remote.version(path)
    except (OSError, TypeError):
        return None
    made_of = [
        [str(path.absolute()), *version, clip.start, clip.end],
        [policy, short_side, frames.JPEG_QUALITY, frames.JPEG_SUBSAMPLING],
        [av.__version__, PIL.__version__],
    ]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def load(path: Path) -> tuple[list[bytes], np.ndarray]:
    """Returns the JPEG frames in a finished file, and their timestamps."""
    with open(path, "rb") as file, np.load(file) as saved:
        data, lengths = saved["data"].tobytes(), saved["lengths"]
        ends = np.cumsum(lengths)
        jpegs = [data[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        return jpegs, saved["timestamps"]


def decode(
    clips: list[Clip],
    work: Path | RemotePath,
    *,
    policy: str,
    short_side: int,
    workers: int | None = None,
    allow_missing: bool = False,
    run: Callable = parallel,
) -> tuple[list[tuple[Clip, Path | RemotePath]], list[dict]]:
    """Decodes the clips into files in `work`; returns each clip with its file, and those skipped.

    Both keep the clips' order. More than 1 % skipped is an error unless `allow_missing`. `run` is
    `parallel` here, or that of `data.beam` to decode on other machines.
    """
    names = [fingerprint(clip, policy=policy, short_side=short_side) for clip in clips]
    paths = [work / f"{name}.npz" if name else None for name in names]
    finished = remote.names(work)
    jobs = {
        path: (clip, path, policy, short_side)
        for clip, path in zip(clips, paths, strict=True)
        if path and path.name not in finished
    }
    wrong = {}
    with tqdm(total=len(clips), initial=len(clips) - len(jobs), desc="decode", unit="clip") as bar:
        for path, problem in run(_decode, jobs, workers):
            if isinstance(problem, BrokenProcessPool):
                detail = "its decoding process died"
                problem = str(video.VideoError(jobs[path][0].path, "unreadable", detail))
            if problem:
                wrong[path] = problem
            bar.update()
    done, skipped = [], []
    for clip, path in zip(clips, paths, strict=True):
        missing = video.VideoError(clip.path or clip.video_id, "missing")
        reason = wrong.get(path) if path else str(missing)
        if reason:
            print(f"skipped {clip.video_id}: {reason}", file=sys.stderr)
            skipped.append({"id": clip.video_id, "reason": reason})
        else:
            done.append((clip, path))
    if len(skipped) > MAX_SKIPPED * len(clips) and not allow_missing:
        reasons = several([f"{clip['id']}: {clip['reason']}" for clip in skipped])
        raise ValueError(
            f"{len(skipped)} of {len(clips)} clips cannot be used, more than 1 %: {reasons}. Mend"
            " them, take them off the list, or build without them: --allow-missing."
        )
    return done, skipped


def _decode(clip: Clip, path: Path | RemotePath, policy: str, short_side: int) -> str | None:
    """Decodes one clip into its file, whole or not at all; returns what was wrong."""
    jpegs, timestamps, size = [], [], 0
    try:
        with remote.local(clip.path) as source:
            planned = video.plan(source, policy=policy, start=clip.start, end=clip.end)
            for image, time in video.decode(source, planned):
                jpegs.append(frames.encode_jpeg(frames.resize_short_side(image, short_side)))
                timestamps.append(time)
                size += len(jpegs[-1])
                if size > MAX_CLIP_BYTES:
                    raise video.VideoError(source, "unreadable", "more than 1 GiB of frames")
    except video.VideoError as error:
        return str(video.VideoError(clip.path, *error.args[1:]))  # not the name of a copy
    except retry.StorageUnavailable:  # says nothing of the clip, which the next build may read
        raise
    except Exception as error:  # one strange clip must not cost the others
        detail = f"{type(error).__name__}: {error}"
        return str(video.VideoError(clip.path, "unreadable", detail))
    with remote.written(path) as partial, open(partial, "wb") as file:
        np.savez(
            file,
            data=np.frombuffer(b"".join(jpegs), np.uint8),
            lengths=np.array([len(jpeg) for jpeg in jpegs], np.int64),
            timestamps=np.array(timestamps, np.float32),
            planned=len(planned),  # more than there are, if the data ended early
        )
    return None
