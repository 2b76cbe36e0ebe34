"""Reads weight files of PyTorch into NumPy, lazily and without PyTorch: no code of a file runs.

It knows what `torch.save` writes (the zip form, and the form before PyTorch 1.6), TorchScript
archives such as OpenAI's `ViT-B-32.pt`, and `.safetensors`. A file is told by its content.
"""

import dataclasses
import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (makes bfloat16 known to NumPy)
import numpy as np
from safetensors import SafetensorError, safe_open

from xclip_jax import torch_pickle
from xclip_jax.torch_pickle import Record, Tensor

EXPECTED = "expected a .pt or .bin file of PyTorch's or a .safetensors file"
MAGIC = 0x1950A86A20F9469CFC6C  # how files from before PyTorch 1.6 begin
SAFETENSORS_LIMIT = 100_000_000  # bytes of a header, by the format's definition
_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """An array that stays in its file until `np.asarray` reads it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.load(), dtype)


class Weights(NamedTuple):
    """What a file holds: "torchscript", "pickle" or "safetensors", arrays by name, its notes."""

    kind: str
    arrays: dict[str, Stored]
    metadata: dict[str, str]


def read(path: Path | str) -> Weights:
    """Returns what a weight file holds.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file holds no weights, is damaged, or asks for code to be run.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; {EXPECTED}, perhaps one in it.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; {EXPECTED}.")
    try:
        weights = _read(path)
    except (ValueError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from None
    if not weights.arrays:
        raise ValueError(f"{path} holds no weights: no array with a name was found in it.")
    return weights


def _read(path: Path) -> Weights:
    with path.open("rb") as file:
        head = file.read(512)
    if not head.strip(b"\0"):
        raise ValueError(f"it {'is empty' if not head else 'begins with zeros'}; {EXPECTED}")
    # First, since the length that such a file begins with may look like any of the rest.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= SAFETENSORS_LIMIT:
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return _read_zip(path)
    if head.lstrip()[:1] == b"<":
        raise ValueError(f"it is a web page, not what its name says: download it again; {EXPECTED}")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError("it is a pointer of Git LFS: fetch the file itself by `git lfs pull`")
    if head[:1] == b"\x80":
        return _read_legacy(path)
    raise ValueError(f"it begins with {head[:8]!r}; {EXPECTED}")


def _read_zip(path: Path) -> Weights:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError("its end is missing or damaged: download it again") from None
    with archive, path.open("rb") as file:
        entries = {info.filename: info for info in archive.infolist()}
        tops = sorted(name for name in entries if name.count("/") == 1 and "/data.pkl" in name)
        if not tops:
            raise ValueError(f"it is a zip archive without a data.pkl; {EXPECTED}")
        top = tops[0].removesuffix("data.pkl")
        order = entries.get(f"{top}byteorder")
        if order and _small(archive, order, 16) != b"little":
            raise ValueError("its numbers are big-endian, which is not read here")
        pickle = _small(archive, entries[tops[0]], torch_pickle.LIMIT)
        value = torch_pickle.load(io.BytesIO(pickle))

        def place(key: str) -> tuple[int, int]:
            """Returns where a storage begins and how many bytes it has."""
            info = entries.get(f"{top}data/{key}")
            if info is None:
                raise ValueError(f"it lacks the entry data/{key}")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its entry data/{key} is compressed, which torch never does")
            file.seek(info.header_offset)
            header = file.read(30)  # of which the last four bytes say how long name and rest are
            name, extra = struct.unpack("<HH", header[26:30])
            return info.header_offset + 30 + name + extra, info.file_size

        kind = "torchscript" if f"{top}constants.pkl" in entries else "pickle"
        return Weights(kind, _arrays(path, _named(value), place), {})


def _small(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """Returns an entry whole, if it is no longer than `limit`."""
    with archive.open(info) as entry:
        data = entry.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"its entry {info.filename} has more than {limit} bytes")
    return data


def _read_legacy(path: Path) -> Weights:
    """Reads pickles of a magic number, a version, the machine, the value and the storages' keys,
    then each storage as its count and its numbers."""
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(torch_pickle.LIMIT))
        size = file.seek(0, io.SEEK_END)
        first = torch_pickle.load(stream)
        if first != MAGIC:
            raise ValueError(f"it is a pickle, but none of torch's; {EXPECTED}")
        torch_pickle.load(stream)
        machine = torch_pickle.load(stream)
        if not isinstance(machine, dict) or not machine.get("little_endian"):
            raise ValueError("its numbers are big-endian, which is not read here")
        named = _named(torch_pickle.load(stream))
        keys = torch_pickle.load(stream)
        widths = {t.storage.key: np.dtype(t.storage.dtype).itemsize for t in named.values()}
        places, position = {}, stream.tell()
        for key in keys:
            file.seek(position)
            count = int.from_bytes(file.read(8), "little")
            if key not in widths or position + 8 + count * widths[key] > size:
                raise ValueError(f"its storage {key} does not fit: it is cut short, or unknown")
            places[key] = (position + 8, count * widths[key])
            position += 8 + count * widths[key]

        def place(key: str) -> tuple[int, int]:
            if key not in places:
                raise ValueError(f"it lacks the storage {key}")
            return places[key]

        return Weights("pickle", _arrays(path, named, place), {})


def _named(value) -> dict[str, Tensor]:
    """Returns the tensors of a state dict, of what wraps one, or of a TorchScript module."""
    if isinstance(value, Record):
        return _of_module(value)
    if not isinstance(value, dict):
        raise ValueError(f"its pickle holds a {type(value).__name__}, not a state dict")
    if not any(isinstance(item, Tensor) for item in value.values()):
        for name in _WRAPPERS:
            if isinstance(value.get(name), dict):
                value = value[name]
                break
    return {str(name): item for name, item in value.items() if isinstance(item, Tensor)}


def _of_module(root: Record) -> dict[str, Tensor]:
    found, seen, waiting = {}, set(), [("", root)]
    while waiting:
        prefix, record = waiting.pop()
        if id(record) in seen:  # a module may be shared, and a hostile file can make a ring
            continue
        seen.add(id(record))
        for name, item in record.attributes.items():
            if isinstance(item, Tensor):
                found[f"{prefix}{name}"] = item
            elif isinstance(item, Record):
                waiting.append((f"{prefix}{name}.", item))
    return found


def _arrays(
    path: Path, named: dict[str, Tensor], place: Callable[[str], tuple[int, int]]
) -> dict[str, Stored]:
    """Returns the arrays of tensors whose storages lie where `place` says."""
    size = path.stat().st_size
    arrays, total = {}, 0
    for name, tensor in named.items():
        start, length = place(tensor.storage.key)
        width = np.dtype(tensor.storage.dtype).itemsize
        if tensor.storage.count * width > length or start + length > size:
            raise ValueError(f"the numbers of {name} do not all lie within the file")
        total += width * math.prod(tensor.shape)
        arrays[name] = _stored(path, tensor, start)
    if total > 4 * size:  # weights may be tied, but not over and over
        raise ValueError("its arrays overlap: together they are over four times the file")
    return arrays


def _stored(path: Path, tensor: Tensor, start: int) -> Stored:
    shape, dtype = tensor.shape, np.dtype(tensor.storage.dtype)

    def load() -> np.ndarray:
        reach = zip(shape, tensor.strides, strict=True)
        count = 1 + sum((n - 1) * stride for n, stride in reach) if math.prod(shape) else 0
        flat = np.fromfile(path, dtype, count, offset=start + tensor.offset * dtype.itemsize)
        strides = [dtype.itemsize * stride for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(flat, shape, strides)

    return Stored(shape, dtype, load)


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            shapes = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            facts = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in shapes.items()}
    except SafetensorError as error:
        raise ValueError(f"it is damaged or cut short ({error}): download it again") from None
    strange = sorted({dtype for _, dtype in facts.values()} - set(_SAFETENSORS))
    if strange:
        raise ValueError(f"its arrays are of type {', '.join(strange)}, which is not read here")
    arrays = {}
    for name, (shape, dtype) in facts.items():

        def load(name=name) -> np.ndarray:
            with safe_open(path, framework="numpy") as file:
                return np.asarray(file.get_tensor(name))

        arrays[name] = Stored(shape, np.dtype(_SAFETENSORS[dtype]), load)
    return Weights("safetensors", arrays, metadata)
