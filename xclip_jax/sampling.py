"""The frames of one clip that a model is given, as pixels, with the time of each.

Which these are is decided before anything is decoded: of a long video only they are in memory.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from xclip_jax import frame_policy, frames, video
from xclip_jax.input import Intake


class Sampled(NamedTuple):
    """Frames of one clip: uint8 [N, S, S, 3], the seconds of each, and which are for what.

    `chosen` are the numbers of those that the model is given, in its order; `dense` those that
    stand for the whole clip, in time's order: the chosen ones unless more were asked for.
    `duration` is the clip's in seconds, infinite where it is not known.
    """

    pixels: np.ndarray
    times: np.ndarray
    chosen: np.ndarray
    dense: np.ndarray
    duration: float = math.inf


def from_file(path: Path, intake: Intake, stored: dict, *, most: int | None) -> Sampled:
    """Returns the frames of a video file, `most` of them spread over all of it beside the model's.

    `stored` is the frame policy of the model's shards. Raises VideoError.
    """
    try:
        frame_count, fps = video.probe(path)
        indices = video.plan(path, policy=stored["name"], probed=(frame_count, fps))
        pick = _picker(intake, stored, most)
        picked = pick(len(indices))
        found = _decode(path, indices[picked[0]], stored["short_side"], intake.image_size)
        if len(found) < len(picked[0]):  # the data end early: choose of what is there
            count = sum(1 for _ in video.decode(path, indices))
            picked = pick(count)
            found = _decode(path, indices[picked[0]], stored["short_side"], intake.image_size)
    except video.VideoError:
        raise
    except ValueError as error:  # fewer frames a second than the model's shards had
        raise video.VideoError(path, "unreadable", str(error)) from None
    pixels, times = zip(*found, strict=True)
    return Sampled(np.stack(pixels), np.array(times, np.float32), *picked[1:], frame_count / fps)


def from_images(
    count: int,
    image: Callable[[int], Image.Image],
    intake: Intake,
    stored: dict,
    *,
    most: int | None,
) -> Sampled:
    """Returns those of a clip's `count` frames that were sampled before, as the model's shards hold
    them; image(i) gives the i-th, in RGB.

    Their times are by the policy's rate; without one, as of `uniform_12`, their numbers.
    """
    places, chosen, dense = _picker(intake, stored, most)(count)
    short_side, size = stored["short_side"], intake.image_size
    pixels = [
        frames.to_square(frames.resize_short_side(image(int(i)), short_side), size) for i in places
    ]
    policy = frame_policy.parse(stored["name"])
    rate = policy.number if policy.kind != "uniform" and policy.number else 1
    return Sampled(np.stack(pixels), (places / rate).astype(np.float32), chosen, dense)


def _picker(intake: Intake, stored: dict, most: int | None) -> Callable:
    """Returns a function from a count of stored frames to the places of those to decode, and the
    places among them of `chosen` and `dense`."""

    def pick(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = frame_policy.choose(
            count,
            intake.evaluation,
            stored=stored["name"],
            most=intake.max_frames,
            rng=np.random.default_rng(intake.frame_seed),
        )
        dense = np.unique(chosen) if most is None else frames.choose(count, most)
        places = np.union1d(chosen, dense)
        return places, np.searchsorted(places, chosen), np.searchsorted(places, dense)

    return pick


def _decode(
    path: Path, indices: np.ndarray, short_side: int, size: int
) -> list[tuple[np.ndarray, float]]:
    return [
        (frames.to_square(frames.resize_short_side(image, short_side), size), time)
        for image, time in video.decode(path, indices)
    ]
