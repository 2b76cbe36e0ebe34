"""Reads the sampled frames of a video file with PyAV, in one pass and bounded memory.

Frame rate, frame count and upright rotation are taken as OpenCV takes them, since the references
sample by them. Files may come from strangers: what a file can cost is bounded below.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from PIL import Image

from xclip_jax import frame_policy, frames, stream_frames
from xclip_jax.stream_frames import TimedFrames

# A frame of 8192 x 8192; ten hours of 1080p at 30 frames/s; nine hours at one sample a second.
MAX_FRAME_PIXELS = 2**26
MAX_DECODED_PIXELS = 2**41
MAX_DECODED_FRAMES = 2**21
MAX_SAMPLES = 2**15
# The longer side grows with the aspect when the shorter one is enlarged.
MAX_ASPECT = 16

_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


class VideoError(ValueError):
    """A clip that gives no frames: `reason` is one of five words, the message names the file."""

    def __init__(self, path: str | Path, reason: str, detail: str = ""):
        super().__init__(path, reason, detail)
        self.reason = reason

    def __str__(self) -> str:
        path, reason, detail = self.args
        return f"{path}: {reason}" + (f" ({detail})" if detail else "")


def read(
    path: str | Path,
    *,
    policy: str = frame_policy.DEFAULT,
    start: float | None = None,
    end: float | None = None,
    short_side: int = 224,
) -> tuple[list[Image.Image], np.ndarray]:
    """Returns the sampled frames, resized, and the seconds of each after the clip's first frame."""
    images, times = [], []
    for image, time in decode(path, plan(path, policy=policy, start=start, end=end)):
        images.append(frames.resize_short_side(image, short_side))
        times.append(time)
    return images, np.array(times, np.float32)


def plan(
    path: str | Path,
    *,
    policy: str = frame_policy.DEFAULT,
    start: float | None = None,
    end: float | None = None,
    probed: tuple[int, float] | None = None,
) -> np.ndarray:
    """Returns the indices of the frames to sample; fewer may be there if the data end early.

    `probed` is what `probe` returned, where it was called before.
    """
    parsed = frame_policy.parse(policy)
    frame_count, fps = probed or probe(path)
    times = _times(path, fps) if parsed.kind == "native" else None
    indices = frame_policy.indices(parsed, frame_count, fps, times=times, start=start, end=end)
    if not len(indices):
        window = f"{start} to {end} s of {frame_count} frames at {fps:g} a second"
        raise VideoError(path, "zero frames", window)
    if len(indices) > MAX_SAMPLES:
        raise VideoError(path, "unreadable", f"{len(indices)} samples, at most {MAX_SAMPLES}")
    return indices


def probe(path: str | Path) -> tuple[int, float]:
    """Returns the number of frames and the frame rate, as OpenCV (4 and 5) gives them."""
    with open_video(path) as container:
        stream = video_stream(container, path)
        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate else 0.0
        frame_count = stream.frames
        if frame_count <= 0 and fps and (seconds := _duration(container, stream)) > 0:
            frame_count = int(seconds * fps + 0.5)
        if frame_count <= 0:  # nothing in the header, as in recordings of a browser
            frame_count, fps = _count(container, stream, fps)
    if int(fps) < 1:
        raise VideoError(path, "zero fps", f"the frame rate is {fps:g}")
    return frame_count, fps


def _times(path: str | Path, fps: float) -> np.ndarray:
    """Returns the second of the file at which each frame is shown, from the packets alone."""
    times = []
    with open_video(path) as container:
        stream = video_stream(container, path)
        with contextlib.suppress(av.FFmpegError):  # what can be read counts
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard and len(times) < MAX_DECODED_FRAMES:
                    times.append(packet.pts)
        base = float(stream.time_base)
        start = (container.start_time or 0) / av.time_base  # of the file: sound may come first
        counted = container.format.name == "avi" or not times or None in times
        delay = bool(stream.codec_context.has_b_frames)
    if counted:  # AVI stores no times: ffmpeg counts, and a decoder that reorders is one behind
        return (np.arange(len(times)) + delay) / fps
    return np.sort(np.array(times, float)) * base - start


def decode(path: str | Path, indices: Iterable[int]) -> Iterator[tuple[Image.Image, float]]:
    """Yields the frames of these ascending indices, upright and whole, and the time of each.

    At least one, or it raises. Data that ends before the last index ends the frames (parity: the
    first failed read ends the originals' sampling); a damaged packet within is passed over, as
    OpenCV does.
    """
    indices = list(indices)
    wanted, reformatter = iter(indices), VideoReformatter()
    target, yielded = next(wanted, None), 0
    for i, frame, time in _frames_with(indices, path):
        if i == target:
            image = upright(frame, path, reformatter)
            while i == target:  # a policy of a higher rate than the clip's repeats frames
                yield image, time
                target, yielded = next(wanted, None), yielded + 1
        if target is None:
            return
    if target is not None and not yielded:
        raise VideoError(path, "zero frames", "its data end before the first frame wanted")


def every_frame(path: str | Path) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yields all frames that can be decoded, as they are, and the time of each from the first."""
    with open_video(path) as container:
        for _, frame, time in _every(container, video_stream(container, path), path):
            yield frame, time


def _every(container: InputContainer, stream: av.VideoStream, path: str | Path) -> TimedFrames:
    pixels = 0
    for i, frame, time in stream_frames.every(container, stream):
        pixels += frame.width * frame.height
        if i >= MAX_DECODED_FRAMES or pixels > MAX_DECODED_PIXELS:
            raise VideoError(path, "unreadable", f"too long: {i} frames, {pixels} pixels")
        yield i, frame, time


def _frames_with(indices: list[int], path: str | Path) -> TimedFrames:
    """Yields what `every_frame` does, numbered, without most of what these indices do not need.

    It may begin anew half way: an index that is lower than the one before has come already.
    """
    with open_video(path) as container:
        stream = video_stream(container, path)
        pixels = stream.frames * _pixels(stream)
        short = stream.frames <= MAX_DECODED_FRAMES and pixels <= MAX_DECODED_PIXELS
        if not short or not stream_frames.may_be_regular(container, stream):
            yield from _every(container, stream, path)
            return
        with contextlib.suppress(stream_frames.Irregular, av.FFmpegError):
            yield from stream_frames.some(container, stream, indices)
            return
    with open_video(path) as container:
        yield from _every(container, video_stream(container, path), path)


def upright(
    frame: av.VideoFrame, path: str | Path, reformatter: VideoReformatter | None = None
) -> Image.Image:
    """Returns the frame in RGB, turned as its display matrix says.

    A `reformatter` kept for all frames of a file saves the tables and threads of a new one each.
    """
    _check_size(frame.width, frame.height, path)  # it may change within a stream
    reformatter = reformatter or VideoReformatter()
    image = reformatter.reformat(frame, format="rgb24", threads=1).to_image()
    turn = _TURNS.get(round(frame.rotation) % 360)
    return image if turn is None else image.transpose(turn)


@contextlib.contextmanager
def open_video(path: str | Path) -> Iterator[InputContainer]:
    """Opens a file that may come from a stranger; what ffmpeg says of it becomes a VideoError."""
    if not Path(path).is_file():
        raise VideoError(path, "missing")
    # Read through Python and with no protocol allowed, a playlist cannot open other files or
    # addresses, nor is "a:b.mp4" taken for one.
    options = {"protocol_whitelist": "none", "max_pixels": str(MAX_FRAME_PIXELS)}
    settings = {"options": options, "metadata_errors": "replace"}  # old titles are not in UTF-8
    try:
        with open(path, "rb") as file, av.open(file, **settings) as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(path, "unreadable", reason) from None


def video_stream(container: InputContainer, path: str | Path) -> av.VideoStream:
    """Returns the stream that is the video, the largest, ready to be decoded in bounded memory."""
    if container.format.name == "tty":  # ffmpeg would draw any text file
        raise VideoError(path, "unreadable", "a text file")
    # The largest stream: ffmpeg's own choice goes by bit rates, which many files do not tell, and
    # OpenCV takes the first. A cover picture is no video.
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise VideoError(path, "no video stream")
    stream = max(streams, key=_pixels)
    if stream.codec_context is None:
        raise VideoError(path, "unreadable", "a codec that ffmpeg does not know")
    _check_size(stream.codec_context.width, stream.codec_context.height, path)
    stream.thread_type = "NONE"  # clips are decoded in parallel, one process each
    stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return stream


def _pixels(stream: av.VideoStream) -> int:
    codec = stream.codec_context  # None of a codec that ffmpeg does not know
    return codec.width * codec.height if codec else 0


def _check_size(width: int, height: int, path: str | Path) -> None:
    longer, shorter = max(width, height), min(width, height)
    if longer * shorter > MAX_FRAME_PIXELS or longer > MAX_ASPECT * shorter:
        raise VideoError(path, "unreadable", f"frames of {width} x {height} pixels")


def _duration(container: InputContainer, stream: av.VideoStream) -> float:
    if container.duration and container.duration > 0:
        return container.duration / av.time_base
    return float(stream.duration * stream.time_base) if stream.duration else 0.0


def _count(container: InputContainer, stream: av.VideoStream, fps: float) -> tuple[int, float]:
    """Returns the number of packets and their mean rate: without a header, fps is a guess too."""
    times = []
    try:
        for packet in container.demux(stream):
            if packet.size and len(times) < MAX_DECODED_FRAMES:
                times.append(packet.pts)
    except av.FFmpegError:
        pass  # what can be read counts
    known = [time for time in times if time is not None]
    span = float((max(known) - min(known)) * stream.time_base) if known else 0.0
    return len(times), (len(known) - 1) / span if span > 0 else fps
