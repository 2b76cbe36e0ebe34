"""Which videos browsers play as they are."""

import functools
from pathlib import Path

import av

from xclip_jax import video
from xclip_jax.web import files
from xclip_jax.web.lookups import Video

CODECS = {
    ".mp4": {"h264", "av1", "vp9"},
    ".m4v": {"h264"},
    ".mov": {"h264"},
    ".webm": {"vp8", "vp9", "av1"},
}
PIXELS = {"yuv420p", "yuvj420p"}


def playable(videos: list[Video]) -> bool:
    """Returns whether browsers commonly play a video; not where the file has changed."""
    try:
        path = files.path_of(videos)
    except files.Refused:
        return False
    return _playable(path, videos[0].sha256)


@functools.lru_cache(4096)
def _playable(path: str, _: str) -> bool:
    codecs = CODECS.get(Path(path).suffix.lower())
    if not codecs:
        return False
    try:
        name, pixels = video.codec(path)
    except (video.VideoError, av.FFmpegError):
        return False
    return name in codecs and pixels in PIXELS
