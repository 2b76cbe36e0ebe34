"""From files to rows of an index: looked at, hashed, and encoded where their content is new."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from xclip_jax import clip_features, evaluate, video
from xclip_jax.index.listing import Listing
from xclip_jax.index.rows import Row
from xclip_jax.workdir import Trained


class Read(NamedTuple):
    """What is told of a file without its features."""

    size: int
    mtime: int
    sha256: str
    duration: float


def rows(
    trained: Trained,
    encoders: evaluate.Encoders,
    listing: Listing,
    chunk: list[str],
    hashes: dict[str, str],
    *,
    most_frames: int | None,
    step: Callable,
) -> tuple[list[Row], dict[str, Read], dict[str, video.VideoError]]:
    """Returns the rows to add, the files whose content is as before, and those that cannot be
    read; `hashes` are the sha256 of the files known before, `step` is called after each file."""
    read = dict(zip(chunk, clip_features.in_threads(_read, chunk), strict=True))
    added, touched, errors, new = [], {}, {}, []
    for path, found in read.items():
        if isinstance(found, video.VideoError):
            errors[path] = found
            step()
        elif hashes.get(path) == found.sha256:
            touched[path] = found
            step()
        else:
            new.append(Path(path))
    clips = clip_features.encode_clips(
        trained, encoders, new, progress=False, most_frames=most_frames
    )
    for place, clip in clips:
        path, found = str(place), read[str(place)]
        if isinstance(clip, video.VideoError):
            errors[path] = clip
        else:
            added.append(
                Row(
                    path,
                    found.sha256,
                    found.size,
                    found.mtime,
                    listing.source,
                    found.duration,
                    clip.times,
                    clip.features,
                    listing.videos[path],
                    clip.frames,
                    clip.frame_times,
                )
            )
        step()
    return added, touched, errors


def _read(path: str) -> Read | video.VideoError:
    """Returns a file's size, time of change, sha256 and duration in seconds."""
    try:
        size, mtime = stat(path)  # before its content: a change in between shows the next time
        frames, fps = video.probe(path)
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except video.VideoError as error:
        return error
    except OSError as error:
        return video.VideoError(path, "unreadable", error.strerror or str(error))
    return Read(size, mtime, digest.hexdigest(), frames / fps)


def stat(path: str) -> tuple[int, int]:
    """Returns a file's size and time of change, -1 of one that is gone."""
    place = Path(path)
    try:
        found = place.stat() if place.exists() else place.lstat()  # a link may lead nowhere
    except OSError:
        return -1, -1  # gone, or not to be looked at: reading it will say so
    return found.st_size, found.st_mtime_ns
