"""Bringing an index up to date with a folder or a list of videos: only what is new is encoded.

A file counts as unchanged while its size and time of change are the same, or else its sha256. Rows
are added in batches of about half a minute, each one commit: an update that is killed is completed
by the next. What cannot be read is named, remembered, and tried again once the file has changed.
"""

import json
import time
from typing import NamedTuple

import jax
from tqdm import tqdm

from xclip_jax import evaluate, video
from xclip_jax.index import ann, reading, store
from xclip_jax.index.listing import Listing
from xclip_jax.models import clip2video, similarity
from xclip_jax.workdir import Trained

SECONDS = 30.0  # of work that a killed process loses, about
LEAST, MOST = 32, 4096  # videos a commit
SCAN_ROWS = 65_536


class Changes(NamedTuple):
    """How many videos an update added, encoded anew, removed, and found as they were; and what it
    said of each that cannot be read, a line each."""

    added: int
    changed: int
    removed: int
    kept: int
    unreadable: list[str]

    def line(self) -> str:
        """Returns the counts for the screen."""
        return (
            f"{self.added} added, {self.changed} changed, {self.removed} removed,"
            f" {self.kept} as before, {len(self.unreadable)} unreadable"
        )


class _Known(NamedTuple):
    size: int
    mtime: int
    source: str
    told: str  # the sha256, or what is wrong with the file
    metadata: dict


def feature_type(trained: Trained) -> type:
    """Returns the NamedTuple that this model's features of videos come in."""
    return clip2video.Video if trained.config.model.name == "clip2video" else similarity.Video


def shapes(trained: Trained, encoders: evaluate.Encoders) -> dict[str, tuple[tuple, str]]:
    """Returns shape and kind of each feature of one video, as `store.create` takes them."""
    intake = trained.intake
    pixels = (encoders.mesh.size, intake.max_frames, intake.image_size, intake.image_size, 3)
    found = jax.eval_shape(
        encoders.video,
        trained.params,
        jax.ShapeDtypeStruct(pixels, "uint8"),
        jax.ShapeDtypeStruct(pixels[:2], bool),
    )
    return {
        name: (x.shape[1:], "b" if x.dtype == bool else "f") for name, x in found._asdict().items()
    }


def update(
    index: store.Index,
    trained: Trained,
    encoders: evaluate.Encoders,
    listing: Listing,
    *,
    progress: bool,
) -> Changes:
    """Brings the rows that came from one folder or list up to date; other rows stay."""
    known, bad = _known(index.videos, "sha256"), _known(index.unreadable, "error")
    store.remove(index.unreadable, _gone(bad, listing))
    store.remove(index.videos, gone := _gone(known, listing))
    todo, kept, told = [], [], {str(error.args[0]): str(error) for error in listing.errors}
    for path in listing.videos:
        size, mtime = reading.stat(path)
        if (row := known.get(path)) and (row.size, row.mtime) == (size, mtime):
            kept.append(path)
        elif (row := bad.get(path)) and (row.size, row.mtime) == (size, mtime):
            told[path] = row.told
        else:
            todo.append(path)
    _describe(index, {path: known[path] for path in kept}, listing)

    hashes = {path: row.told for path, row in known.items()}
    counts = {"added": 0, "changed": 0}
    done, size = 0, LEAST
    with tqdm(total=len(todo), desc="indexing", unit="video", disable=not progress) as bar:
        while done < len(todo):
            start, chunk = time.monotonic(), todo[done : done + size]
            rows, touched, errors = reading.rows(
                trained,
                encoders,
                listing,
                chunk,
                hashes,
                most_frames=index.facts["moment_frames"] or None,
                step=lambda: bar.update(1),
            )
            new = [row for row in rows if row.path not in known]
            again = [row for row in rows if row.path in known]
            store.put(index, new, replace=False)
            store.put(index, again, replace=True)
            store.change(index, _columns(touched, listing))
            _remember(index, listing, errors, chunk, known, bad)
            counts["added"] += len(new)
            counts["changed"] += len(again)
            kept += touched
            told |= {path: str(error) for path, error in errors.items()}
            done += len(chunk)
            pace = len(chunk) / max(time.monotonic() - start, 1e-3)
            size = min(max(int(pace * SECONDS), LEAST), MOST)
    if todo or gone:
        ann.tidy(index)
    return Changes(**counts, removed=len(gone), kept=len(kept), unreadable=list(told.values()))


def _known(lance_table, told: str) -> dict[str, _Known]:
    """Returns what a table says of each file, by its path."""
    columns = ["path", "size", "mtime", "source", told]
    if "metadata" in lance_table.schema.names:
        columns.append("metadata")
    found = {}
    for batch in lance_table.search().select(columns).to_batches(SCAN_ROWS):
        for row in batch.to_pylist():
            metadata = json.loads(row.get("metadata") or "{}")
            found[row["path"]] = _Known(
                row["size"], row["mtime"], row["source"], row[told], metadata
            )
    return found


def _gone(known: dict[str, _Known], listing: Listing) -> list[str]:
    return [
        path
        for path, row in known.items()
        if row.source == listing.source and path not in listing.videos
    ]


def _describe(index: store.Index, kept: dict[str, _Known], listing: Listing) -> None:
    """Gives videos that are as before what a list now says of them."""
    paths = [path for path, row in kept.items() if row.metadata != listing.videos[path]]
    metadata = [listing.videos[path] for path in paths]
    store.change(index, {"path": paths, "metadata": metadata})


def _columns(touched: dict[str, reading.Read], listing: Listing) -> dict[str, list]:
    """Returns what changes of videos whose files are other ones, but for their content."""
    return {
        "path": list(touched),
        "size": [read.size for read in touched.values()],
        "mtime": [read.mtime for read in touched.values()],
        "metadata": [listing.videos[path] for path in touched],
    }


def _remember(
    index: store.Index,
    listing: Listing,
    errors: dict[str, video.VideoError],
    chunk: list[str],
    known: dict[str, _Known],
    bad: dict[str, _Known],
) -> None:
    """Writes down which files of a chunk cannot be read, and that others now can."""
    store.remove(index.videos, [path for path in errors if path in known])
    store.remove(index.unreadable, [path for path in chunk if path in bad])
    rows = [
        dict(zip(("path", "size", "mtime"), (path, *reading.stat(path)), strict=True))
        | {"source": listing.source, "error": str(error)}
        for path, error in errors.items()
    ]
    if rows:
        index.unreadable.add(rows)
