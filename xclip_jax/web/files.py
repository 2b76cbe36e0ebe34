"""The bytes of an indexed video, as long as the file is the one that was indexed."""

import os
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
from starlette.responses import Response, StreamingResponse

from xclip_jax.web.lookups import Video
from xclip_jax.web.refusals import Refused

PIECE = 256 * 2**10
FOREVER = "private, max-age=31536000, immutable"  # an id names its content
TYPES = {
    ".avi": "video/x-msvideo",
    ".flv": "video/x-flv",
    ".gif": "image/gif",
    ".m4v": "video/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".mpeg": "video/mpeg",
    ".mpg": "video/mpeg",
    ".ogv": "video/ogg",
    ".ts": "video/mp2t",
    ".webm": "video/webm",
    ".wmv": "video/x-ms-wmv",
}


def opened(videos: list[Video]) -> tuple[int, Video]:
    """Returns an open descriptor of the first of these files that still is as indexed.

    Raises Refused (410) where none is; only regular files are read.
    """
    for video in videos:
        try:
            file = os.open(video.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError):
            continue
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode) and (found.st_size, found.st_mtime_ns) == (
            video.size,
            video.mtime,
        ):
            return file, video
        os.close(file)
    raise Refused(
        410, f"{videos[0].name} has changed since it was indexed, or is gone: index it again."
    )


def path_of(videos: list[Video]) -> str:
    """Returns the path of the first of these files that still is as indexed."""
    file, video = opened(videos)
    os.close(file)
    return video.path


def response(videos: list[Video], asked: str | None, etag: str | None, *, head: bool) -> Response:
    """Returns the whole file, or the part that a Range header asks for.

    Args:
        asked: the Range header; `etag` the If-Range header.
        head: leaves the bytes out.
    """
    file, video = opened(videos)
    own = f'"{video.sha256}"'
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": FOREVER,
        "ETag": own,
    }
    try:
        part = None if asked is None or etag not in (None, own) else span(asked, video.size)
    except Refused:
        os.close(file)
        raise
    start, end = part or (0, video.size)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{video.size}"
    kind = TYPES.get(Path(video.path).suffix.lower(), "application/octet-stream")
    if head:
        os.close(file)
        return Response(None, 206 if part else 200, headers, kind)
    return _Streamed(file, start, end, 206 if part else 200, headers, kind)


class _Streamed(StreamingResponse):
    """The bytes of an open file, which is closed at the end, however that comes about."""

    def __init__(self, file: int, start: int, end: int, status: int, headers: dict, kind: str):
        super().__init__(_pieces(file, start, end), status, headers, kind)
        self.file = file

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self.file)


async def _pieces(file: int, start: int, end: int) -> AsyncIterator[bytes]:
    while start < end:
        piece = await anyio.to_thread.run_sync(os.pread, file, min(PIECE, end - start), start)
        if not piece:  # cut off while it is read: the client sees that bytes are missing
            return
        start += len(piece)
        yield piece


def span(asked: str, size: int) -> tuple[int, int] | None:
    """Returns the part of `size` bytes that a Range header means, None for all of them.

    What is no range, and several ranges, mean the whole, as RFC 9110 has it. Raises Refused (416)
    where the part lies outside.
    """
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,19})-(\d{0,19})\s*", asked, re.ASCII)
    if not match or not any(match.groups()):
        return None
    first, last = (int(text) if text else None for text in match.groups())
    if first is None:
        first, last = max(size - last, 0), size - 1 if last else -1
    elif last is None:
        last = size - 1
    elif last < first:
        return None
    if first >= size or last < first:
        raise Refused(
            416,
            f"Range {asked.strip()[:60]!r} of {size} bytes.",
            {"Content-Range": f"bytes */{size}"},
        )
    return first, min(last, size - 1) + 1
