"""Features of many clips or texts in one file, `.npz` or `.parquet`, gathered part by part.

Parts lie in a folder beside the file until all are there, so a run that is stopped loses little and
goes on; no more than one part is in memory, however many there are.
"""

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

KINDS = (".npz", ".parquet")
ROWS = 256  # a part
# What NumPy and zipfile raise for a file that is cut short, altered, or something else.
DAMAGE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)


def check_name(file: Path) -> None:
    """Raises ValueError where a file of this name cannot be written, or is there."""
    if file.suffix not in KINDS:
        raise ValueError(f"--out {file}: expected a name that ends with {' or '.join(KINDS)}.")
    if file.suffix == ".parquet":
        _pyarrow()  # better missed now than after hours
    if file.exists():
        raise ValueError(f"--out {file} exists: choose another name or remove it.")


class Parts:
    """The parts of a file to come, of features of one model; add rows within its `with`.

    Attributes:
        done: the keys of all rows that are in parts, which name a clip in one state or a text.
    """

    def __init__(self, file: Path, model: str):
        check_name(file)
        self.file, self.model = file, model
        self.folder = file.with_name(file.name + ".parts")
        self.waiting: list[dict[str, np.ndarray]] = []
        self.done = set()
        for _, part in self._stored():
            if str(part["model"]) != model:
                raise ValueError(
                    f"{self.folder} holds features of another model: remove it, or give another"
                    " --out."
                )
            self.done |= set(part["key"].tolist())

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_) -> None:
        self.flush()  # also what came before an interruption

    def add(self, row: dict[str, np.ndarray]) -> None:
        """Takes one row, a dict of arrays or texts with a text `key` that tells it from others."""
        self.waiting.append(row)
        if len(self.waiting) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes what is waiting."""
        if not self.waiting:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.stack([row[name] for row in self.waiting]) for name in self.waiting[0]}
        last = max((int(path.stem) for path in self.folder.glob("*.npz")), default=-1)
        number = last + 1
        temporary = self.folder / f"{number:06d}.tmp"
        with temporary.open("wb") as stream:
            np.savez(stream, model=self.model, **arrays)
        temporary.replace(self.folder / f"{number:06d}.npz")
        self.done |= {str(row["key"]) for row in self.waiting}
        self.waiting.clear()

    def finish(self, keys: set[str]) -> int:
        """Writes the file, of the rows of these keys, removes the parts, and returns how many."""
        temporary = self.file.with_name(self.file.name + ".tmp")
        write = {".npz": _write_npz, ".parquet": _write_parquet}[self.file.suffix]
        count = write(temporary, lambda: self._rows(keys), self.model)
        temporary.replace(self.file)
        shutil.rmtree(self.folder, ignore_errors=True)
        return count

    def _rows(self, keys: set[str]) -> Iterator[dict[str, np.ndarray]]:
        """Yields the columns of each part, of the rows that are wanted."""
        for _, part in self._stored():
            wanted = np.array([key in keys for key in part["key"].tolist()], bool)
            if wanted.any():
                columns = {name: part[name] for name in part if name not in ("key", "model")}
                yield {name: column[wanted] for name, column in columns.items()}

    def _stored(self) -> Iterator[tuple[Path, dict]]:
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as stored:
                    part = {name: stored[name] for name in stored.files}
                    part["key"], part["model"]  # both must be there
            except DAMAGE as error:
                raise ValueError(f"{path} is damaged ({error}): remove it.") from None
            yield path, part


def _write_npz(file: Path, parts, model: str) -> int:
    """Writes one array a column, with as many rows as all parts have."""
    shapes, dtypes, count = {}, {}, 0
    for part in parts():
        count += len(next(iter(part.values())))
        for name, column in part.items():
            shapes[name] = column.shape[1:]
            # Of texts the widest: each part has room for its own longest.
            dtypes[name] = np.promote_types(dtypes.get(name, column.dtype), column.dtype)
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, dtype in dtypes.items():
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (count, *shapes[name]),
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_2_0(stream, header)
                for part in parts():
                    stream.write(np.ascontiguousarray(part[name].astype(dtype)).tobytes())
        with archive.open("model.npy", "w") as stream:
            np.lib.format.write_array(stream, np.array(model))
    return count


def _write_parquet(file: Path, parts, model: str) -> int:
    """Writes one column an array, those of several axes flattened; the metadata have the shapes."""
    pyarrow, parquet = _pyarrow()
    writer, count = None, 0
    for part in parts():
        columns, shapes = {}, {}
        for name, column in part.items():
            if column.ndim > 1:
                shapes[name] = list(column.shape[1:])
                if size := int(np.prod(column.shape[1:])):  # CLIP2Video may have no centers
                    flat = pyarrow.array(column.reshape(-1))
                    columns[name] = pyarrow.FixedSizeListArray.from_arrays(flat, size)
            else:
                columns[name] = pyarrow.array(column.tolist())
        facts = {"xclip_jax": json.dumps({"model": model, "shapes": shapes})}
        table = pyarrow.table(columns).replace_schema_metadata(facts)
        writer = writer or parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
        count += len(table)
    writer.close()
    return count


def _pyarrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            ".parquet needs pyarrow: pip install pyarrow, or choose a name that ends with .npz."
        ) from None
    return pyarrow, pyarrow.parquet
