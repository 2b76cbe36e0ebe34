"""Still pictures of a video: one frame, or ten side by side for a preview, as JPEG."""

import io
import time
from pathlib import Path

from PIL import Image

from xclip_jax import stills, video
from xclip_jax.web.refusals import Refused

QUALITY = 80
ACROSS, CELL_HEIGHT = 10, 144  # frames of a preview, and pixels of their height
POSTER = 1 / 3  # of the duration: most clips fade in


def frame(path: str, seconds: float, *, height: int, allowed: float) -> bytes:
    """Returns the frame shown at a second of a video; `allowed` seconds may be spent on it."""
    [image] = _frames(path, [seconds], height, allowed)
    return _jpeg(image)


def preview(path: str, duration: float, *, allowed: float) -> bytes:
    """Returns `ACROSS` frames from all over a video, side by side."""
    times = [duration * (i + 0.5) / ACROSS for i in range(ACROSS)]
    images = _frames(path, times, CELL_HEIGHT, allowed)
    width = images[0].width
    sheet = Image.new("RGB", (ACROSS * width, CELL_HEIGHT))
    for i, image in enumerate(images):
        sheet.paste(image.resize((width, CELL_HEIGHT)), (i * width, 0))
    return _jpeg(sheet)


def _frames(path: str, times: list[float], height: int, allowed: float) -> list[Image.Image]:
    found = []
    try:
        for image in stills.shown_at(path, times, before=time.monotonic() + allowed):
            width = max(round(height * image.width / image.height), 1)
            found.append(image.resize((width, height), Image.Resampling.BICUBIC))
    except stills.TooSlow:
        raise Refused(
            503, f"a frame of {Path(path).name} took more than {allowed:g} s to decode."
        ) from None
    except video.VideoError as error:
        raise Refused(410, f"{Path(path).name}: {error.reason}.") from None
    return found


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
