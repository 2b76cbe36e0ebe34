"""What a clip may be given as: a video file, its bytes, a folder of frame images, an array.

A folder and an array hold frames that were sampled already, as the model's shards hold them: in
time's order and at their rate, one a second for most models. A file is sampled here.
"""

import os
import re
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from xclip_jax import remote, sampling, video
from xclip_jax.input import Intake
from xclip_jax.sampling import Sampled

Source = str | os.PathLike | bytes | np.ndarray
IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


def sample(
    source: Source, name: str, intake: Intake, stored: dict, *, most: int | None
) -> Sampled | video.VideoError:
    """Returns the frames of a clip, or what is wrong with it, by `name`.

    `intake`, `stored` and `most` are as in `sampling.from_file`.
    """
    try:
        if isinstance(source, bytes | bytearray | memoryview):
            with tempfile.NamedTemporaryFile(prefix="xclip_jax_") as file:
                file.write(source)
                file.flush()
                return sampling.from_file(Path(file.name), intake, stored, most=most)
        if isinstance(source, str | os.PathLike):
            place = remote.place(source if isinstance(source, str) else os.fspath(source))
            if isinstance(place, Path) and place.is_dir():
                return _from_folder(place, intake, stored, most)
            with remote.local(place) as file:
                return sampling.from_file(file, intake, stored, most=most)
        return _from_array(source, intake, stored, most)
    except video.VideoError as error:
        _, reason, detail = error.args
        return video.VideoError(name, reason, detail)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return video.VideoError(name, "unreadable", str(error))  # Pillow has errors of all kinds


def name_of(source: Source, i: int) -> str:
    """Returns what a source is called in messages: its place in the list, and its file."""
    if isinstance(source, str | os.PathLike):
        return f"[{i}] {os.fspath(source)}"
    if isinstance(source, np.ndarray):
        return f"[{i}] array {source.dtype} {list(source.shape)}"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"[{i}] {len(source)} bytes"
    return f"[{i}] {type(source).__name__}"


def _from_folder(folder: Path, intake: Intake, stored: dict, most: int | None) -> Sampled:
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGES]
    if not files:
        raise ValueError(f"the folder holds no image: looked for {', '.join(sorted(IMAGES))}")
    files.sort(key=_natural)

    def image(i: int) -> Image.Image:
        try:
            with Image.open(files[i], formats=FORMATS) as opened:
                _check_shape(opened.width, opened.height)
                return opened.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{files[i].name}: {error}") from None

    return sampling.from_images(len(files), image, intake, stored, most=most)


def _from_array(frames: np.ndarray, intake: Intake, stored: dict, most: int | None) -> Sampled:
    shape, dtype = getattr(frames, "shape", None), getattr(frames, "dtype", None)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not all(shape):
        raise ValueError(
            "expected a path, a folder of images, the bytes of a video file or an array uint8"
            " [frames, height, width, 3]"
        )
    _check_shape(shape[2], shape[1])
    return sampling.from_images(
        len(frames), lambda i: Image.fromarray(np.asarray(frames[i])), intake, stored, most=most
    )


def _check_shape(width: int, height: int) -> None:
    longer, shorter = max(width, height), min(width, height)
    if longer * shorter > video.MAX_FRAME_PIXELS or longer > video.MAX_ASPECT * shorter:
        raise ValueError(f"frames of {width} x {height} pixels")


def _natural(path: Path) -> list:
    """Sorts frame10 after frame9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in _DIGITS.split(path.name)]


_DIGITS = re.compile(r"(\d+)")
