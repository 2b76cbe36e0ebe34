"""A full disk during a build: one line that says what to do, whoever was writing."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def needed(folder: str | Path) -> Iterator[None]:
    """Turns what is raised within, where there is no room left for `folder`, into a ValueError."""
    try:
        yield
    except Exception as error:
        # TensorFlow, which writes the records, has errors of its own with the system's words.
        reason = next((os.strerror(code) for code in _FULL if os.strerror(code) in str(error)), "")
        if not reason:
            raise
        raise ValueError(
            f"{folder} cannot be written: {reason}. Make room, for twice the size of the finished"
            " shards, and run the same command again: finished clips are not decoded again."
        ) from None
