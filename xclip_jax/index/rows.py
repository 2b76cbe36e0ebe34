"""The rows of an index, and how they become columns of its table."""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """A video to add: `features` is one row of what `encode_video` returns; `times` in seconds,
    of its frames; `mtime` in nanoseconds; `source` the folder or list it came from.

    `frames` [N, E] and `frame_times` [N] are what moments are found by: CLIP's raw features of
    frames all over the video. An index without `moment_frames` does not keep them.
    """

    path: str
    sha256: str
    size: int
    mtime: int
    source: str
    duration: float
    times: np.ndarray
    features: tuple
    metadata: dict
    frames: np.ndarray | None = None
    frame_times: np.ndarray | None = None


def table(facts: dict, rows: Sequence[Row]):
    """Returns rows as a PyArrow table of the columns that an index's facts ask for."""
    import pyarrow as pa

    texts = pa.array([json.dumps(row.metadata) for row in rows], pa.string())
    columns = {
        "path": pa.array([row.path for row in rows], pa.string()),
        "sha256": pa.array([row.sha256 for row in rows], pa.string()),
        "size": pa.array([row.size for row in rows], pa.int64()),
        "mtime": pa.array([row.mtime for row in rows], pa.int64()),
        "source": pa.array([row.source for row in rows], pa.string()),
        "duration": pa.array([row.duration for row in rows], pa.float32()),
        "times": pa.array([row.times for row in rows], pa.list_(pa.float32())),
        "metadata": pa.ExtensionArray.from_storage(pa.json_(), texts),
    }
    for name, (shape, kind) in facts["fields"].items():
        if size := math.prod(shape):
            dtype = np.float16 if kind == "f" else bool
            values = np.stack([getattr(row.features, name) for row in rows]).astype(dtype)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), size)
    if facts["moment_frames"]:
        flat = [row.frames.astype(np.float16).ravel() for row in rows]
        columns["moment_frames"] = pa.array(flat, pa.list_(pa.float16()))
        columns["moment_times"] = pa.array([row.frame_times for row in rows])
    return pa.table(columns)
