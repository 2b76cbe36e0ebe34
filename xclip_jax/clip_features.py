"""From clips to features: decoded on all cores, encoded in batches of few sizes.

The image tower takes frames one by one, so a batch is one of frames, whatever clip they are of: no
padding of a short clip is encoded, and a long clip needs no program of its own.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from xclip_jax import few_shapes, sampling, video
from xclip_jax.evaluate import Encoders
from xclip_jax.sampling import Sampled
from xclip_jax.workdir import Trained


class Clip(NamedTuple):
    """The features of one clip, NumPy arrays.

    Attributes:
        features: one row of what the model's `encode_video` returns, a NamedTuple.
        times: float32, the seconds of the frames that `features` are of, in their order.
        frames: float32 [N, E], CLIP's raw features of frames all over the clip, in time's order:
            the same ones, or more where more were asked for.
        frame_times: float32 [N], their seconds.
        duration: of the clip in seconds, infinite where it is not known.
    """

    features: tuple
    times: np.ndarray
    frames: np.ndarray
    frame_times: np.ndarray
    duration: float


def encode_clips(
    trained: Trained,
    encoders: Encoders,
    paths: Sequence[Path],
    *,
    progress: bool,
    most_frames: int | None = None,
) -> Iterator[tuple[Path, Clip | video.VideoError]]:
    """Yields each path, in order, with its features or with what is wrong with the file.

    With `most_frames` up to so many frames of each clip come with it, spread over all of it.
    """

    def load(path: Path) -> Sampled | video.VideoError:
        try:
            return sampling.from_file(path, trained.intake, trained.frame_policy, most=most_frames)
        except video.VideoError as error:
            return error

    loaded = in_threads(load, paths)
    bar = tqdm(loaded, "encoding clips", total=len(paths), unit="clip", disable=not progress)
    yield from zip(paths, encode(trained, encoders, bar), strict=True)


def in_threads(load: Callable, items: Sequence) -> Iterator:
    """Yields load(item) of each item in order, from as many threads as there are cores."""
    workers = os.cpu_count() or 1
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(load, item))
            if len(waiting) > 2 * workers:  # bounds how many clips wait in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def encode(
    trained: Trained, encoders: Encoders, stream: Iterable[Sampled | video.VideoError]
) -> Iterator[Clip | video.VideoError]:
    """Yields the features of each clip in order; an error takes its place in the line."""
    most = trained.intake.max_frames
    row = _row(trained)
    most_rows = max(trained.config.eval_batch_size * most // row, 1)
    waiting: list[Sampled | video.VideoError] = []
    rows = 0
    for clip in stream:
        waiting.append(clip)
        rows += 0 if isinstance(clip, video.VideoError) else len(_rows(clip, row, most)[1])
        if rows >= most_rows or len(waiting) >= trained.config.eval_batch_size:
            yield from _encode(trained, encoders, waiting, row, most_rows)
            waiting, rows = [], 0
    yield from _encode(trained, encoders, waiting, row, most_rows)


def blank(trained: Trained, encoders: Encoders) -> np.ndarray:
    """Returns CLIP's raw feature [E] of the frame that padding is."""
    size = trained.intake.image_size
    row = _row(trained)
    pixels = np.zeros((1, row, size, size, 3), np.uint8)
    return _frames(trained, encoders, pixels, np.zeros((1, row), bool), 1)[0, 0]


def _frames(trained: Trained, encoders: Encoders, pixels, masks, most_rows: int) -> np.ndarray:
    """Returns CLIP's raw features of rows of frames."""
    return few_shapes.in_batches(
        lambda *batch: encoders.frames(trained.params, *batch),
        (pixels, masks),
        most_rows,
        encoders.mesh,
    )


def _row(trained: Trained) -> int:
    """Returns how many frames the image tower is given as one row: the 3d patch sees the frames
    before and after, so there it is all that a model is given."""
    three = trained.config.model.get("linear_patch", "2d") == "3d"
    return trained.intake.max_frames if three else 1


def _encode(
    trained: Trained, encoders: Encoders, clips: list, row: int, most_rows: int
) -> Iterator[Clip | video.VideoError]:
    most = trained.intake.max_frames
    good = [clip for clip in clips if not isinstance(clip, video.VideoError)]
    if not good:
        yield from clips
        return
    pixels, masks = zip(*(_rows(clip, row, most) for clip in good), strict=True)
    padded = row == 1 and any(len(clip.chosen) < most for clip in good)
    encoded = _frames(trained, encoders, np.concatenate(pixels), np.concatenate(masks), most_rows)
    ends = np.cumsum([len(mask) for mask in masks])
    padding = blank(trained, encoders) if padded else None
    parts = [
        _features(clip, part, padding, most)
        for clip, part in zip(good, np.split(encoded, ends[:-1]), strict=True)
    ]
    given, dense = zip(*parts, strict=True)
    masks = np.stack([np.arange(most) < len(clip.chosen) for clip in good])
    gathered = few_shapes.in_batches(
        lambda *batch: encoders.gathered(trained.params, *batch),
        (np.stack(given), masks),
        trained.config.eval_batch_size,
        encoders.mesh,
    )
    features = map(gathered._make, zip(*gathered, strict=True))
    whole = iter(zip(features, good, dense, strict=True))
    for clip in clips:
        if isinstance(clip, video.VideoError):
            yield clip
            continue
        row_of_features, clip, frames = next(whole)
        times = clip.times
        yield Clip(row_of_features, times[clip.chosen], frames, times[clip.dense], clip.duration)


def _rows(clip: Sampled, row: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the clip's frames as rows [R, row, S, S, 3] for the image tower, and their mask."""
    if row == 1:
        return clip.pixels[:, None], np.ones((len(clip.pixels), 1), bool)
    taken = [clip.chosen]
    if not np.array_equal(clip.chosen, clip.dense):
        taken += [clip.dense[i : i + row] for i in range(0, len(clip.dense), row)]
    pixels = np.zeros((len(taken), row, *clip.pixels.shape[1:]), np.uint8)
    for i, places in enumerate(taken):
        pixels[i, : len(places)] = clip.pixels[places]
    lengths = np.array([len(places) for places in taken])
    return pixels, np.arange(row) < lengths[:, None]


def _features(
    clip: Sampled, encoded: np.ndarray, padding: np.ndarray | None, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the features of `_rows` are of: the [F, E] that the model gathers, padding
    included, and the frames of the whole clip [N, E]."""
    if encoded.shape[1] == 1:
        frames = encoded[:, 0]
        given = frames[clip.chosen]
        if len(given) < most:
            rest = np.broadcast_to(padding, (most - len(given), len(padding)))
            given = np.concatenate([given, rest])
        return given, frames[clip.dense]
    frames = encoded[1:] if len(encoded) > 1 else encoded  # the first is what the model is given
    return encoded[0], np.concatenate(frames)[: len(clip.dense)]
