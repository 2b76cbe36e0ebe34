"""Smaller copies of video files: 3 frames a second, the shorter side at 224 pixels, no sound.

As the references' optional step, and right for portrait clips too. A copy has its original's name
and sub-folder, and is written whole or not at all, so that a killed run goes on where it was.
"""

import collections
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

import av
from PIL import Image
from tqdm import tqdm

from xclip_jax import video
from xclip_jax.data.clips import several
from xclip_jax.data.processes import parallel

RATE = 3
SHORT_SIDE = 224
WARNING = (
    "compressing costs accuracy: the copies lose detail that a model may use. Train and evaluate on"
    " the same kind of file, and report results from the originals."
)

# One thread: files are compressed in parallel. The rest is as ffmpeg has it by default.
ENCODER = {"preset": "medium", "crf": "23", "threads": "1"}
# Times may jump, and each second of a gap costs three frames: nine hours at most.
MAX_FRAMES = RATE * video.MAX_SAMPLES

COMPRESSED, COPIED, STOPPED = "compressed", "copied", "stopped"


class Report(NamedTuple):
    """What became of a folder's files: names of those copied as they are, each with why."""

    compressed: int
    there_before: int
    copied: dict[str, str]
    bytes_before: int
    bytes_after: int


def compress(folder: str | Path, out: str | Path, *, workers: int | None = None) -> Report:
    """Writes a small copy of each file below `folder` to the same place below `out`.

    A file that gives no frames, or whose copy would be no smaller, is copied as it is. One that is
    there already is left alone.
    """
    folder, out = Path(folder), Path(out)
    names = _names(folder, out)
    there = [name for name in names if (out / name).is_file()]
    jobs = {name: (folder / name, out / name) for name in names if name not in set(there)}
    # An earlier run copied what has its original's size: no compressed file has.
    copied = {
        str(name): "copied as it is by an earlier run"
        for name in there
        if (out / name).stat().st_size == (folder / name).stat().st_size
    }
    outcomes = collections.Counter()
    with tqdm(total=len(names), initial=len(there), desc="compress", unit="file") as bar:
        for name, result in parallel(_compress, jobs, workers):
            if isinstance(result, BrokenProcessPool):
                detail = "its decoding process died"
                result = _copy(*jobs[name], str(video.VideoError(name, "unreadable", detail)))
            outcome, detail = result
            if outcome == STOPPED:  # a full disk, say: no other file would fare better
                raise ValueError(
                    f"{name} cannot be written: {detail}. Once that is mended, the same command"
                    " goes on where it was."
                )
            outcomes[outcome] += 1
            if outcome != COMPRESSED:
                copied[str(name)] = detail
                tqdm.write(f"copied as it is: {name}: {detail}", file=sys.stderr)
            bar.update()
    return Report(
        compressed=outcomes[COMPRESSED],
        there_before=len(there),
        copied={name: copied[name] for name in sorted(copied)},
        bytes_before=sum((folder / name).stat().st_size for name in names),
        bytes_after=sum((out / name).stat().st_size for name in names),
    )


def size(width: int, height: int) -> tuple[int, int]:
    """Returns the width and height of the copy; the longer side is even, as H.264 wants it."""
    if width > height:
        return SHORT_SIDE * width // height // 2 * 2, SHORT_SIDE
    return SHORT_SIDE, SHORT_SIDE * height // width // 2 * 2


def sample(path: str | Path) -> Iterator[Image.Image]:
    """Yields what the clip shows at 0, 1/3, 2/3, ... seconds, upright and in its own size.

    By the frames' times, so that a clip of a variable frame rate keeps its speed. A frame is shown
    until the next one comes, the last one as long as the one before.
    """
    shown = image = None
    shown_at, lasts, count = 0.0, 1 / RATE, 0
    for frame, time in video.every_frame(path):
        # Times are rounded to the clock of the file: 0.6669 s shall not come before 2/3 s.
        while shown is not None and count / RATE < time - 1e-3:
            image = image or video.upright(shown, path)
            yield image
            count = _next(count, path)
        if shown is not None and time > shown_at:
            lasts = time - shown_at
        shown, shown_at, image = frame, time, None
    if shown is None:
        raise video.VideoError(path, "zero frames")
    while count == 0 or count / RATE < shown_at + lasts - 1e-3:
        image = image or video.upright(shown, path)
        yield image
        count = _next(count, path)


def _next(count: int, path: str | Path) -> int:
    if count >= MAX_FRAMES:
        raise video.VideoError(path, "unreadable", f"longer than {MAX_FRAMES // RATE} seconds")
    return count + 1


def _names(folder: Path, out: Path) -> list[Path]:
    """Returns the files below the folder, by their places in it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of videos.")
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--out {out} lies in {folder}: give a folder beside it.")
    paths = sorted(_files(folder))
    names = [path.relative_to(folder) for path in paths]
    wrong = [f"{path} leads nowhere" for path in paths if not path.is_file()]
    wrong += [f"{out / name} is a folder" for name in names if (out / name).is_dir()]
    if wrong or not names:
        raise ValueError(f"{folder} cannot be compressed: {several(wrong) or 'it is empty'}.")
    return names


def _files(folder: Path) -> Iterator[Path]:
    """Yields all files below a folder; links to folders are followed, each folder once."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, file) for file in files)


def _compress(source: Path, target: Path) -> tuple[str, str]:
    """Writes the small copy of one file; returns what became of it, and why if not that."""
    partial = _partial(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                _encode(source, file)
        except video.VideoError as error:
            return _copy(source, target, str(error).removeprefix(f"{source}: "))
        except OSError:
            raise
        except Exception as error:  # one strange file must not cost the others
            return _copy(source, target, f"unreadable ({type(error).__name__}: {error})")
        before, after = source.stat().st_size, partial.stat().st_size
        if after >= before:
            return _copy(source, target, f"{before} bytes, which would become more")
        os.replace(partial, target)
        return COMPRESSED, ""
    except OSError as error:
        return STOPPED, str(error)
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: Path, target: Path, reason: str) -> tuple[str, str]:
    partial = _partial(target)
    shutil.copyfile(source, partial)
    os.replace(partial, target)
    return COPIED, reason


def _partial(target: Path) -> Path:
    # The same name in every run, so that the next one overwrites what a killed one left.
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f".{digest}.partial")


def _encode(source: Path, file: BinaryIO) -> None:
    """Writes an MP4 file, whatever the name says: AVI and GIF do not hold H.264 well or at all."""
    with av.open(file, "w", format="mp4") as container:
        stream = None
        for i, image in enumerate(sample(source)):
            if stream is None:
                stream = container.add_stream("libx264", rate=RATE, options=ENCODER)
                stream.width, stream.height = size(*image.size)
                stream.pix_fmt = "yuv420p"
            # Pillow's filter, as a build has it: there is nothing left to resize then.
            small = image.resize((stream.width, stream.height), Image.Resampling.BICUBIC)
            frame = av.VideoFrame.from_image(small)
            frame.pts, frame.time_base = i, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
