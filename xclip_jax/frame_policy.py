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
MAX_TAKEN = 2**15  # nine hours at one frame a second; a gap in a file's times fills with repeats


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


def problems(sampling: Sampling) -> list[str]:
    """Returns what no sampling can be, a line each, by the names of the config's keys."""
    found = []
    if sampling.policy:
        try:
            parse(sampling.policy)
        except ValueError as error:
            found.append(f"config.data.frame_policy: {error}")
    if sampling.divisor < 1:
        found.append(f"config.data.frame_divisor={sampling.divisor}: give 1 or more")
    if sampling.position not in (0, 1, 2):
        found.append(
            f"config.data.slice_position={sampling.position}: give 0 (first), 1 (last) or 2 (spread"
            " evenly)"
        )
    if sampling.order not in (0, 1, 2):
        found.append(f"frame order {sampling.order}: give 0 (as is), 1 (reversed) or 2 (shuffled)")
    return found


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
            # Those shown from `start` to `end`; a millionth of a frame forgives the arithmetic.
            first = 0 if start is None else math.ceil(start * fps - 1e-6)
            last = frame_count - 1
            last = last if end is None else min(math.floor(end * fps + 1e-6), last)
            return first + frames.choose(max(last + 1 - first, 0), policy.number)
        case "native":
            taken = resample(times, policy.number, last=1 / fps)
            seconds = np.arange(len(taken)) / policy.number
            return taken[
                (seconds >= (start or 0)) & (seconds <= (math.inf if end is None else end))
            ]


def resample(times: np.ndarray, rate: int, *, last: float) -> np.ndarray:
    """Returns which frames `ffmpeg -r rate` writes, of frames shown at these seconds.

    Its constant-rate output, step by step: a frame is dropped that would come more than 1.1 of an
    output frame too early, and repeated to fill a gap. Hence the second frame of nearly every clip
    is taken, as CLIP2Video's frame folders have it (parity).

    Args:
        times: ascending, from the start of the file.
        rate: of the output, in frames a second.
        last: how long the last frame is shown.
    """
    durations = np.append(np.diff(times), last) * rate
    taken, before = [], 0
    for i, (place, duration) in enumerate(zip(times * rate, durations, strict=True)):
        early = place - len(taken)
        late = early + duration
        if early < 0 < late:
            early = 0.0
        if late < -1.1:
            continue
        room = MAX_TAKEN + 1 - len(taken)
        count = min(round(late), room) if late > 1.1 else min(1, room)
        again = min(round(early - 0.6), count) if late > 1.1 and early > 1.1 else 0
        taken += [before] * again + [i] * (count - again)  # of the frame before, and of this one
        before = i
    return np.array(taken, int)


def divide(count: int, divisor: int) -> np.ndarray:
    """Returns which of `count` frames CLIP2Video keeps: one in `divisor`, spread evenly.

    Fewer frames than the divisor give none, as in the original.
    """
    return np.linspace(0, count - 1, count // divisor, dtype=int)


def choose(
    count: int,
    sampling: Sampling,
    *,
    stored: str,
    most: int,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Returns which of a clip's stored frames to use, in the order to use them in.

    Args:
        count: of the stored frames.
        sampling: what the config asks for.
        stored: the policy by which they were stored.
        most: the frames that the model takes.
        rng: draws the jitter and the shuffled order; evaluation without shuffling needs none.
    """
    have = np.arange(count)
    if sampling.policy and sampling.policy != stored:
        have = have[:: parse(stored).number]  # all that `refusal` lets through
    if sampling.divisor > 1:
        # A clip of fewer frames than the divisor keeps its first: with none it has no score.
        have = (
            have[divide(len(have), sampling.divisor)] if len(have) >= sampling.divisor else have[:1]
        )
    places = frames.choose(len(have), most, position=sampling.position)
    if sampling.jitter and len(have) > most > 2:
        step = (places[1] - places[0]) // 2
        if step > 2:
            places[1:-1] += rng.integers(-step, step, len(places) - 2)
    chosen = have[places]
    if sampling.order == 1:
        return chosen[::-1]
    return rng.permutation(chosen) if sampling.order == 2 else chosen


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
