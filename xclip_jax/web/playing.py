"""Videos as browsers play them: which they play as they are, and copies in H.264 of the others."""

import functools
import heapq
import os
import tempfile
from collections import OrderedDict, deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from xclip_jax import video
from xclip_jax.web import apart, files
from xclip_jax.web.lookups import Video
from xclip_jax.web.refusals import Refused, busy

CODECS = {
    ".mp4": {"h264", "av1", "vp9"},
    ".m4v": {"h264"},
    ".mov": {"h264"},
    ".webm": {"vp8", "vp9", "av1"},
}
PIXELS = {"yuv420p", "yuvj420p"}
LONGER_SIDE = 720  # pixels of a copy
KEPT_BYTES = 2**30  # of copies
CLOCK = 90_000  # ticks of a copy's clock in a second
REORDERED = 4  # frames that may come before others shown earlier
SETTINGS = {"preset": "veryfast", "crf": "25"}


def playable(videos: list[Video]) -> bool:
    """Returns whether browsers commonly play a video; not where the file has changed."""
    try:
        path = files.path_of(videos)
    except Refused:
        return False
    return _playable(path, videos[0].sha256)


@functools.lru_cache(4096)
def _playable(path: str, _: str) -> bool:
    codecs = CODECS.get(Path(path).suffix.lower())
    if not codecs:
        return False
    try:
        with video.open_video(path) as container:
            context = video.video_stream(container, path).codec_context
            return context.codec.canonical_name in codecs and context.pix_fmt in PIXELS
    except video.VideoError:
        return False


class Copies:
    """Copies of videos in a folder of their own, those unused for longest removed; for one thread.

    Of each the first `longest` seconds are copied, without sound.
    """

    def __init__(self, *, longest: float, seconds: float):
        self._folder = tempfile.TemporaryDirectory(prefix="xclip_jax_play_")
        self._process = apart.Apart(copy, longest, seconds=seconds)
        self._held: OrderedDict[str, Video] = OrderedDict()

    def of(self, videos: list[Video]) -> Video:
        """Returns the copy of a video, made where it is not kept; raises Refused."""
        path, sha256 = files.path_of(videos), videos[0].sha256
        if sha256 not in self._held:
            target = os.path.join(self._folder.name, f"{sha256}.mp4")
            try:
                wrong = self._process((path, target))
            except apart.Late:
                raise busy(
                    f"a copy to play took more than {self._process.seconds:g} s.", 600
                ) from None
            except apart.Died:
                wrong = "it ended the process"
            if wrong:
                raise Refused(410, f"{videos[0].name} cannot be copied to be played: {wrong}.")
            found = os.stat(target)
            made = videos[0]._replace(
                path=target, size=found.st_size, mtime=found.st_mtime_ns, sha256=f"{sha256}-play"
            )
            self._held[sha256] = made
            while sum(each.size for each in self._held.values()) > KEPT_BYTES:
                os.unlink(self._held.popitem(last=False)[1].path)
        self._held.move_to_end(sha256)
        return self._held[sha256]

    def close(self) -> None:
        """Removes all of them."""
        self._process.close()
        self._folder.cleanup()


def copy(paths: tuple[str, str], longest: float) -> str:
    """Writes an H.264 MP4 of one file to another; returns what is wrong, or ""."""
    source, target = paths
    try:
        _copy(source, target, longest)
    except (video.VideoError, av.FFmpegError, MemoryError) as error:
        return getattr(error, "reason", "") or type(error).__name__
    return ""


def _copy(source: str, target: str, longest: float) -> None:
    settings = {"format": "mp4", "options": {"movflags": "+faststart"}}
    with av.open(target, "w", **settings) as container:
        stream, last = None, -1
        for frame, seconds in _in_order(source):
            tick = round(seconds * CLOCK)
            if seconds > longest:
                break
            if tick <= last:
                continue
            if frame.rotation:
                frame = av.VideoFrame.from_image(video.upright(frame, source))
            if stream is None:
                stream = container.add_stream("libx264", options=SETTINGS)
                stream.width, stream.height = _fitted(frame.width, frame.height)
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = Fraction(1, CLOCK)
            shown = frame.reformat(stream.width, stream.height, "yuv420p")
            shown.pts, shown.time_base, last = tick, Fraction(1, CLOCK), tick
            shown.pict_type = av.video.frame.PictureType.NONE
            container.mux(stream.encode(shown))
        if stream is None:
            raise video.VideoError(source, "zero frames")
        container.mux(stream.encode())


def _in_order(path: str) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yields all frames with ascending times: AVI has those of the order of decoding."""
    frames, times = deque(), []
    for frame, seconds in video.every_frame(path):
        frames.append(frame)
        heapq.heappush(times, seconds)
        if len(frames) > REORDERED:
            yield frames.popleft(), heapq.heappop(times)
    while frames:
        yield frames.popleft(), heapq.heappop(times)


def _fitted(width: int, height: int) -> tuple[int, int]:
    """Returns even sizes of the same shape, no larger than a copy is."""
    scale = min(LONGER_SIDE / max(width, height), 1)
    return max(2 * round(width * scale / 2), 2), max(2 * round(height * scale / 2), 2)
