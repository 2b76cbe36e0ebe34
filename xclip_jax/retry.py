"""Failures of a bucket or a server that pass: which they are, and trying again.

gcsfs, botocore and TensorStore try again by themselves, gcsfs for about half a minute. `call` does
so around them, with growing pauses, until SECONDS have gone by. A failure that outlasts it becomes
StorageUnavailable, which ends a command with EXIT_STATUS: nothing has to be corrected before the
same command is run again.
"""

import hashlib
import http.client
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h
SECONDS = "XCLIP_JAX_RETRY_SECONDS"  # environment variable: how long to go on trying
DEFAULT_SECONDS = 180.0
FIRST, LONGEST = 0.5, 30.0  # pauses in seconds; each is twice the one before
LEAST = 3  # tries, however long each takes
QUIET = 30.0  # seconds between two warnings, for many threads fail at once

STATUSES = {408, 425, 429, 500, 502, 503, 504}  # of HTTP
BUILT_IN = (TimeoutError, ConnectionError, socket.gaierror, http.client.HTTPException)
# By package and class, so that no package is imported to ask.
CLASSES = {
    *("aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError", "gcsfs.ChecksumError"),
    *("requests.ConnectionError", "requests.Timeout", "requests.ChunkedEncodingError"),
    *("botocore.HTTPClientError", "botocore.ResponseParserError", "google.TransportError"),
}
PACKAGES = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "s3fs"}
# TensorStore, TensorFlow and LanceDB have texts only.
TEXT = re.compile(
    r"http_response_code='(408|429|5\d\d)'|curl_code='\d|HTTP response code (408|429|5\d\d)"
    r"|(Generic (GCS|S3) error|store: \"(GCS|S3)\").*"
    r"(status( code)?: (408|429|5\d\d)|timed out|error sending request|HTTP error|Http\()",
    re.DOTALL | re.IGNORECASE,
)

_warned = -QUIET


class StorageUnavailable(Exception):
    """A bucket or server did not do what it was asked for, in many tries.

    It is no OSError, for those are taken for a broken or missing file in many places.
    """


T = TypeVar("T")


def call(act: Callable[[], T], what: str, *, seconds: float | None = None) -> T:
    """Returns what `act` does, which is done again while it fails in a way that passes.

    Raises StorageUnavailable where it still does after `seconds`, by default those of the
    environment variable. Other errors go through at once.

    Args:
      what: the address, for the message.
    """
    seconds = patience() if seconds is None else seconds
    began, tries, pauses = time.monotonic(), 0, delays(seconds, key=what)
    while True:
        try:
            return act()
        except Exception as error:
            if isinstance(error, StorageUnavailable) or not is_transient(error):
                raise
            tries += 1
            pause, spent = next(pauses, None), time.monotonic() - began
            if pause is None or (tries >= LEAST and spent + pause > seconds):
                raise StorageUnavailable(
                    f"{what} cannot be reached: {said(error)} (tried for {spent:.0f} s, {tries}"
                    " times)"
                ) from error
            _warn(f"{what}: {said(error)}; trying again")
        time.sleep(pause)


def patience() -> float:
    """Returns for how many seconds a failure is tried again."""
    given = os.environ.get(SECONDS, str(DEFAULT_SECONDS))
    try:
        return float(given)
    except ValueError:
        raise ValueError(f"{SECONDS}={given}: expected a number of seconds.") from None


def delays(seconds: float, *, key: str = "") -> Iterator[float]:
    """Yields the pauses that fit into so many seconds.

    With a key each is shortened by up to a half, in another way in each process, so that the hosts
    of a run do not all come back at once.
    """
    total, pause, i = 0.0, FIRST, 0
    while total + pause <= seconds:
        digest = hashlib.sha256(f"{socket.gethostname()} {os.getpid()} {key} {i}".encode()).digest()
        yield pause * (1 - digest[0] / 512) if key else pause
        total, pause, i = total + pause, min(2 * pause, LONGEST), i + 1


def is_transient(error: BaseException) -> bool:
    """Tells whether what failed, a request to a bucket or server, may succeed later."""
    for part in chain(error):
        if isinstance(part, StorageUnavailable):
            return True
        if (status := _status(part)) is not None:
            return status in STATUSES
        if isinstance(part, FileNotFoundError | PermissionError):
            return False
        names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in _kinds(part)}
        if isinstance(part, BUILT_IN) or names & CLASSES or getattr(part, "retryable", False):
            return True
    return any(TEXT.search(str(part)) for part in chain(error))


def is_storage(error: BaseException) -> bool:
    """Tells whether an error that anything may have raised is a passing one of a bucket.

    A connection that another process of the run has closed is not.
    """
    ours = any(
        isinstance(part, StorageUnavailable)
        or TEXT.search(str(part))
        or any(kind.__module__.partition(".")[0] in PACKAGES for kind in _kinds(part))
        for part in chain(error)
    )
    return ours and is_transient(error)


def said(error: BaseException) -> str:
    """Returns the kind of an error and what it says, in one line of at most 240 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 240 else f"{text[:80]} ... {text[-150:]}"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and what led to it."""
    seen = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        reason = getattr(error, "reason", None)  # urllib keeps the cause of a URLError there
        context = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or (reason if isinstance(reason, Exception) else context)


def _kinds(error: BaseException) -> tuple[type, ...]:
    return type(error).__mro__


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status that an error carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for name in ("code", "status"):
        if str(value := getattr(error, name, None)).isdigit():
            return int(value)
    return None


def _warn(text: str) -> None:
    global _warned
    if time.monotonic() - _warned >= QUIET:
        _warned = time.monotonic()
        logging.getLogger(__name__).warning(text)
