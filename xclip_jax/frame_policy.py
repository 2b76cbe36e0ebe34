"""Which frames of a video are stored, and which of the stored ones a model is given: policies.

A policy is its name, so that a manifest, a config and a command line can hold it:

  clip4clip_1fps  CLIP4Clip's and X-CLIP's: N frames in each second, the rate truncated (0: all)
  uniform_12      K frames spread evenly over the clip, or all of a shorter one
  native_5fps     CLIP2Video's: what `ffmpeg -r N` extracts, frames doubled where a clip has fewer

What shards hold can give what a config asks for under these rules, and no others:

  stored            asked             gives
  any               the same, or ""   every stored frame
  clip4clip_Nfps    clip4clip_1fps    every N-th, exactly what a build at 1 frame/s stores (N >= 1)

Nothing else is exact: half of two frames a second need not be the frames of one build at half of
that rate, and the frames of a uniform policy depend on their number.
"""

import math
import re
from typing import NamedTuple

import numpy as np

from xclip_jax import frames

DEFAULT = "clip4clip_1fps"
_NAMES = {
    "clip4clip": r"clip4clip_(\d+)fps",
    "uniform": r"uniform_(\d+)",
    "native": r"native_(\d+)fps",
}
# More is a slip of the keyboard; it also bounds what a manifest can ask for.
MAX_NUMBER = 1000


class FramePolicy(NamedTuple):
    """A policy's name, and its two parts: one of three kinds, frames a second or a clip."""

    name: str
    kind: str
    number: int


class Sampling(NamedTuple):
    """Which of the stored frames a model is given, and in which order.

    Attributes:
        policy: what the stored frames must be able to give; "" takes them as they are.
        divisor: keeps one in so many, spread evenly (CLIP2Video's feature_framerate).
        position: of more than the model takes, 0 the first, 1 the last, 2 spread evenly.
        order: 0 as they are, 1 reversed, 2 shuffled.
        jitter: moves each frame but the first and the last at random, as CLIP2Video's training.
    """

    policy: str = ""
    divisor: int = 1
    position: int = 2
    order: int = 0
    jitter: bool = False


def parse(name: str) -> FramePolicy:
    """Returns the policy of a name."""
    for kind, pattern in _NAMES.items():
        if match := re.fullmatch(pattern, name):
            number = int(match[1])
            if (kind == "clip4clip" or number) and number <= MAX_NUMBER:
                return FramePolicy(f"{match[0]}", kind, number)
    raise ValueError(
        f"frame policy {name!r} is unknown: give clip4clip_1fps (or another number of frames a"
        " second, 0 for all), uniform_12 (frames a clip) or native_5fps (as ffmpeg -r 5)."
    )


def indices(
    policy: FramePolicy,
    frame_count: int,
    fps: float,
    *,
    times: np.ndarray | None = None,
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """Returns the ascending indices of a clip's frames to store; `native` may repeat some.

    `times` are the seconds of each frame, which only `native` looks at.
    """
    match policy.kind:
        case "clip4clip":
            return frames.second_indices(frame_count, fps, rate=policy.number, start=start, end=end)
        case "uniform":
            first = 0 if start is None else int(start * fps)
            last = frame_count - 1 if end is None else min(math.ceil(end * fps), frame_count - 1)
            return first + frames.choose(max(last + 1 - first, 0), policy.number)
        case "native":
            raise NotImplementedError


def refusal(stored: str, asked: str) -> str | None:
    """Returns why shards of one policy cannot give another, None if they can."""
    if not asked or stored == asked:
        return None
    have, want = parse(stored), parse(asked)
    if (have.kind, want.kind, want.number) == ("clip4clip", "clip4clip", 1) and have.number:
        return None
    return (
        f"the shards hold frames of policy {stored}, which cannot give {asked}: build them again"
        f" with --policy {asked}, or set config.data.frame_policy to {stored}."
    )
