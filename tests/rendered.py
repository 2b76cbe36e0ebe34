"""Small video files for the tests, whose frames carry their own number."""

from fractions import Fraction

import av
import numpy as np


def render(
    path,
    count,
    *,
    fps=25,
    size=(64, 48),
    codec="libx264",
    pix_fmt="yuv420p",
    bit_rate=None,
    **settings,
):
    """Writes `count` frames; the left half of each tells its number mod 16, the right the rest."""
    width, height = size
    with av.open(str(path), "w", **settings) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if bit_rate:
            stream.bit_rate = bit_rate
        for i in range(count):
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[:, : width // 2] = 16 * (i % 16)
            pixels[:, width // 2 :] = 16 * (i // 16 % 16)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def number(image):
    """Returns the number that a frame carries."""
    pixels = np.asarray(image, np.float32)
    width = pixels.shape[1]
    left, right = pixels[:, : width // 4].mean(), pixels[:, -(width // 4) :].mean()
    return round(left / 16) + 16 * round(right / 16)
