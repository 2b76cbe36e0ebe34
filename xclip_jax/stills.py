"""Frames to look at, found by seeking: a second of a long video costs as much as of a short one.

Which frame exactly is of no weight here. What is measured is sampled by `video.decode`.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
from PIL import Image

from xclip_jax import stream_frames, video


class TooSlow(Exception):
    """Frames that take longer than they may."""


def shown_at(path: str | Path, times: Sequence[float], *, before: float) -> list[Image.Image]:
    """Returns the frame shown at each of these ascending seconds after the first, upright, whole.

    The last one stands for all after it, and the first that can be decoded for those before. Raises
    TooSlow once `time.monotonic()` is past `before`, VideoError where nothing can be decoded.
    """
    found: list[Image.Image] = []
    for seek in (True, False):  # without a keyframe before it, or an index, from the start
        with video.open_video(path) as container:
            stream = video.video_stream(container, path)
            start, frames, frame, ahead = stream.start_time or 0, None, None, None
            for seconds in times[len(found) :]:
                target = start + int(seconds / stream.time_base)
                if frames is None or (seek and _is_ahead(stream, frame, target)):
                    frames, ahead = _decoded(container, stream, target if seek else None), None
                    frame = None
                while ahead is None or (ahead.pts or 0) <= target:
                    frame = ahead or frame
                    if time.monotonic() > before:
                        raise TooSlow
                    if (ahead := next(frames, None)) is None:
                        break
                shown = frame or ahead
                if shown is None:
                    break
                found.append(video.upright(shown, path))
        if len(found) == len(times):
            return found
    raise video.VideoError(path, "zero frames", "none can be decoded")


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream, target: int | None
) -> Iterator[av.VideoFrame]:
    """Yields frames from the keyframe before `target` on; none where there is no such place."""
    try:
        if target is not None:
            container.seek(target, stream=stream)
    except av.FFmpegError:
        return
    for _, frame, _ in stream_frames.every(container, stream):
        yield frame


def _is_ahead(stream: av.VideoStream, frame: av.VideoFrame | None, target: int) -> bool:
    """Returns whether seeking to `target` leaves out frames that decoding on would go through."""
    if frame is None or frame.pts is None:
        return True
    index = stream.index_entries
    place = index.search_timestamp(target)  # of the keyframe before
    return place < 0 or index[place].timestamp > frame.pts
