"""The rows of an index as clients see them: videos by the sha256 of their content."""

import json
import threading
import time
from pathlib import Path
from typing import NamedTuple

from xclip_jax.index import store
from xclip_jax.web.refusals import Refused, busy

COLUMNS = ["path", "sha256", "size", "mtime", "duration", "metadata", "times"]
FRESH_SECONDS = 1.0  # for so long rows are what they were: others may be writing
KEPT = 4096  # videos looked up lately


class Video(NamedTuple):
    """A row: `size` and `mtime` (nanoseconds) as indexed, `times` the seconds of its frames."""

    path: str
    sha256: str
    size: int
    mtime: int
    duration: float
    metadata: dict
    times: list[float]

    @property
    def name(self) -> str:
        """The file's name; where it lies is nothing for clients."""
        return name_of(self.path)


class Rows:
    """A table of videos of its own, brought up to the latest commit.

    Who asks in two steps needs one for himself: rows have other numbers after a commit."""

    def __init__(self, place: str):
        self.index = store.open_index(place)
        self._facts = _facts(self.index)
        self._lock = threading.Lock()
        self._checked, self._version = time.monotonic(), self.index.videos.version
        self._found: dict[str, list[Video]] = {}

    def fresh(self) -> store.Index:
        """Returns the index as of a second ago at most.

        Raises Refused where it was made anew, by another model perhaps.
        """
        with self._lock:
            if time.monotonic() - self._checked > FRESH_SECONDS:
                self.index.videos.checkout_latest()
                if _facts(self.index) != self._facts:
                    raise busy("the index was made anew: start the server again.", 60)
                self._checked = time.monotonic()
                if (version := self.index.videos.version) != self._version:
                    self._version, self._found = version, {}
        return self.index

    def of(self, sha256: str) -> list[Video]:
        """Returns the videos of this content, one or more; raises Refused where there is none."""
        index, found = self.fresh(), self._found
        if sha256 not in found:
            query = index.videos.search().where(f"sha256 = {store.quoted(sha256)}")
            rows = query.select(COLUMNS).to_arrow().to_pylist()
            if not rows:
                raise Refused(404, f"no video of the index has the id {sha256}.")
            if len(found) >= KEPT:
                found.clear()
            found[sha256] = [_video(row) for row in rows]
        return found[sha256]

    def page(self, offset: int, limit: int, *, where: str | None = None) -> tuple[list[Video], int]:
        """Returns `limit` videos from the `offset`-th on, and how many there are in all.

        Raises ValueError where the filter cannot be used.
        """
        table = self.fresh().videos
        query = table.search().select(COLUMNS).offset(offset).limit(limit)
        with store.filtering(where):
            rows = (query.where(where) if where else query).to_arrow().to_pylist()
            return [_video(row) for row in rows], table.count_rows(where)

    def count(self) -> int:
        """Returns the number of videos."""
        return self.fresh().videos.count_rows()


def name_of(path: str) -> str:
    """Returns the last part of a path or address."""
    return Path(path).name or path


def _facts(index: store.Index) -> bytes | None:
    return (index.videos.schema.metadata or {}).get(store.KEY)


def _video(row: dict) -> Video:
    row["metadata"] = json.loads(row["metadata"] or "{}")
    return Video(**{name: row[name] for name in COLUMNS})
