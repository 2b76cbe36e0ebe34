"""One change of an index at a time, where it lies in a folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

NAME = "update.lock"


@contextlib.contextmanager
def held(place: str | Path) -> Iterator[None]:
    """Keeps other processes from changing the index meanwhile; searching goes on.

    Raises ValueError where another one is at it: both would add the same videos. The system lets
    go of the lock of a process that is killed. An address in a bucket or on a server has none.
    """
    if "://" in str(place):
        yield
        return
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / NAME, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"--index {place} is being changed by another process: wait for it, or stop it."
            ) from None
        yield
