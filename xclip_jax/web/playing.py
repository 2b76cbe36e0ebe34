"""Which videos browsers play as they are."""

import functools
from pathlib import Path

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
        with video.open_video(path) as container:
            context = video.video_stream(container, path).codec_context
            return context.codec.canonical_name in codecs and context.pix_fmt in PIXELS
    except video.VideoError:
        return False
