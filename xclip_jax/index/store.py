"""The table of an index: one row a video, with its features, in LanceDB.

A folder, an address on gs:// or s3://, or db://, a LanceDB server, go through the same code. Every
change is one commit of LanceDB's: a process that is killed leaves the table as of the last one.

Features are float16. Against float32 they take half the room, which is nearly all of an index's,
and reading them half the time; scores of 120 clips changed by a thousandth at most, of tens.
"""

import contextlib
import importlib.util
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xclip_jax import retry
from xclip_jax.index.rows import Row, table

FORMAT = 1
VIDEOS, UNREADABLE = "videos", "unreadable"
KEY = b"xclip_jax"  # of the table's metadata, which holds the index's facts as JSON
NAMES = 500  # of files in one SQL expression


class Index(NamedTuple):
    """An open index.

    Attributes:
        place: the folder or address.
        videos: the LanceDB table of videos.
        unreadable: the LanceDB table of files that gave no features, and why.
        facts: `model`, its fingerprint; `of`, the model in words; `workdir` and `step` to load it
            from, and the `stamp` of that checkpoint; `fields`, the shape of each feature of one
            video; `moment_frames`, how many raw frames of each are kept at most.
    """

    place: str
    videos: object
    unreadable: object
    facts: dict


def require() -> None:
    """Raises ValueError where LanceDB is not installed."""
    if importlib.util.find_spec("lancedb") is None:
        raise ValueError("an index needs LanceDB: pip install 'xclip_jax[index]'.")


def exists(place: str | Path) -> bool:
    """Tells whether there is an index at `place`."""
    if "://" not in str(place) and not Path(place).is_dir():  # which LanceDB would make
        return False
    return VIDEOS in _connect(place).list_tables().tables


def open_index(place: str | Path) -> Index:
    """Returns the index at a folder or address.

    Raises FileNotFoundError where there is none, ValueError where it cannot be read.
    """
    if not exists(place):
        raise FileNotFoundError(
            f"--index {place}: no index there; make one with xclip-jax index FOLDER --workdir DIR"
            f" --index {place}."
        )
    database = _connect(place)
    try:
        videos, unreadable = database.open_table(VIDEOS), database.open_table(UNREADABLE)
        facts = json.loads((videos.schema.metadata or {}).get(KEY, b"{}"))
    except (ValueError, RuntimeError, OSError) as error:
        raise _unreadable(place, error) from None
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"--index {place} is a LanceDB table that xclip-jax did not make, or of another"
            f" version (format {facts.get('format')}, expected {FORMAT}): choose another --index."
        )
    return Index(str(place), videos, unreadable, facts)


def create(place: str | Path, facts: dict, shapes: dict[str, tuple[tuple[int, ...], str]]) -> Index:
    """Makes an empty index; `shapes` gives the (shape, kind) of each feature of one video, kind
    "f" for floats and "b" for masks."""
    import pyarrow as pa

    facts = {"format": FORMAT, **facts, "fields": {k: [list(s), t] for k, (s, t) in shapes.items()}}
    columns = [
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("mtime", pa.int64()),
        pa.field("source", pa.string()),
        pa.field("duration", pa.float32()),
        pa.field("times", pa.list_(pa.float32())),
        pa.field("metadata", pa.json_()),
    ]
    kinds = {"f": pa.float16(), "b": pa.bool_()}
    columns += [
        pa.field(name, pa.list_(kinds[kind], math.prod(shape)))
        for name, (shape, kind) in shapes.items()
        if math.prod(shape)
    ]
    if facts["moment_frames"]:
        columns.append(pa.field("moment_frames", pa.list_(pa.float16())))
        columns.append(pa.field("moment_times", pa.list_(pa.float32())))
    named = [("path", pa.string()), ("size", pa.int64()), ("mtime", pa.int64())]
    other = [*named, ("source", pa.string()), ("error", pa.string())]
    database = _connect(place)
    schema = pa.schema(columns, metadata={KEY: json.dumps(facts).encode()})
    # Only with the table of videos, the last one, is it an index: what was begun is begun anew.
    unreadable = database.create_table(UNREADABLE, schema=pa.schema(other), mode="overwrite")
    videos = database.create_table(VIDEOS, schema=schema, mode="overwrite")
    return Index(str(place), videos, unreadable, facts)


def check_model(index: Index, fingerprint: str, given: str) -> None:
    """Raises ValueError where the index holds features of another model than `given`."""
    if index.facts["model"] != fingerprint:
        raise ValueError(
            f"--index {index.place} holds features of {index.facts['of']} (model"
            f" {index.facts['model'][:12]}), and {given} is another model ({fingerprint[:12]}):"
            " features of two models cannot be compared. Give that one's --workdir and"
            " --checkpoint, or another --index."
        )


def put(index: Index, rows: Sequence[Row], *, replace: bool) -> None:
    """Adds rows in one commit; with `replace` they take the place of those of the same paths."""
    if not rows:
        return
    data = table(index.facts, rows)
    if replace:
        insert = index.videos.merge_insert("path")
        insert.when_matched_update_all().when_not_matched_insert_all().execute(data)
    else:
        index.videos.add(data)


def change(index: Index, columns: dict[str, list]) -> None:
    """Changes some columns of the rows whose `path` is among them, in one commit."""
    import pyarrow as pa

    if not columns["path"]:
        return
    arrays = {name: pa.array(values) for name, values in columns.items() if name != "metadata"}
    if "metadata" in columns:
        texts = pa.array([json.dumps(value) for value in columns["metadata"]], pa.string())
        arrays["metadata"] = pa.ExtensionArray.from_storage(pa.json_(), texts)
    index.videos.merge_insert("path").when_matched_update_all().execute(pa.table(arrays))


def remove(lance_table, paths: Sequence[str]) -> None:
    """Removes the rows of these paths."""
    for i in range(0, len(paths), NAMES):
        listed = ", ".join(quoted(path) for path in paths[i : i + NAMES])
        lance_table.delete(f"path IN ({listed})")


def quoted(text: str) -> str:
    """Returns a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def features(index: Index, rows, kind: type) -> tuple:
    """Returns the features in a PyArrow table as `kind`, a NamedTuple of arrays, in float32."""
    columns = {}
    for name, (shape, form) in index.facts["fields"].items():
        if not math.prod(shape):
            columns[name] = np.zeros((rows.num_rows, *shape), np.float32)
            continue
        flat = rows[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        columns[name] = flat.reshape(-1, *shape).astype(np.float32 if form == "f" else bool)
    return kind(**columns)


def fields(index: Index) -> list[str]:
    """Returns the columns that hold features; those of no size have none."""
    return [name for name, (shape, _) in index.facts["fields"].items() if math.prod(shape)]


def scan(index: Index, columns: Iterable[str], *, where: str | None, rows: int):
    """Yields PyArrow tables of at most so many rows, all that the filter lets through."""
    import pyarrow as pa

    query = index.videos.search().select(list(columns))
    if where:
        query = query.where(where)
    with filtering(where):
        for batch in query.to_batches(rows):
            yield pa.Table.from_batches([batch])


def check_moments(index: Index) -> None:
    """Raises ValueError where the index does not keep what moments are found by."""
    if not index.facts["moment_frames"]:
        raise ValueError(
            f"--index {index.place} keeps no frames to find moments by: index again into another"
            " --index with --moment-frames 64, say."
        )


def moment_frames(index: Index, path: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns CLIP's raw features [N, E] of frames all over a video, their seconds [N], and the
    video's.

    Raises ValueError where the index does not keep them, or does not have the video.
    """
    check_moments(index)
    query = index.videos.search().where(f"path = {quoted(path)}")
    rows = query.select(["moment_frames", "moment_times", "duration"]).to_arrow()
    if not rows.num_rows:
        raise ValueError(f"--index {index.place} has no video {path}.")
    times = rows["moment_times"][0].values.to_numpy()
    flat = rows["moment_frames"][0].values.to_numpy()
    frames = flat.reshape(len(times), -1).astype(np.float32)
    return frames, times, rows["duration"][0].as_py()


@contextlib.contextmanager
def filtering(where: str | None) -> Iterator[None]:
    """Turns what LanceDB says of a filter it cannot use into one line."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if not where:
            raise
        said = " ".join(str(error).removeprefix("Invalid input, ").split())
        raise ValueError(
            f"--where {where!r}: {said} Columns are path, size, duration and metadata, whose keys"
            " are read by json_get_string(metadata, 'language') = 'en' or json_get_int,"
            " json_get_float, json_get_bool."
        ) from None


def _connect(place: str | Path):
    require()
    # It would warn of every table that it makes.
    os.environ.setdefault("LANCEDB_LOG", "error")
    import lancedb

    options = {}
    if str(place).startswith(("gs://", "s3://")):
        seconds = retry.patience()
        # By itself it tries four times within a second or two.
        options = {
            "client_max_retries": str(len(list(retry.delays(seconds))) or 1),
            "client_retry_timeout": f"{max(1, seconds):.0f}",
        }
    try:
        return lancedb.connect(str(place), storage_options=options or None)
    except (ValueError, RuntimeError, OSError) as error:
        raise _unreadable(place, error) from None


def _unreadable(place: str | Path, error: Exception) -> Exception:
    if retry.is_storage(error):
        return retry.StorageUnavailable(f"--index {place}: {retry.said(error)}")
    said = " ".join(str(error).split(", /")[0].split())
    return ValueError(
        f"--index {place} cannot be read ({said}): give another --index, or delete it and index"
        " anew."
    )
