"""Random access to the records of a shard folder, with every checksum looked at.

A TFRecord frame is: length (uint64), its checksum, the data, their checksum. The data are a
tf.train.Example, which TFDS's features parse without TensorFlow.
"""

import json
import os
import struct
import threading
import weakref
import zipfile
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
import tensorflow_datasets as tfds

from xclip_jax import remote
from xclip_jax.remote import RemotePath

FORMAT = 2  # of the shards, which data/build.py writes


class Record(NamedTuple):
    """One video: its frames as JPEG bytes, the second of each, and its captions in a split."""

    video_id: str
    frames: list[bytes]
    timestamps: np.ndarray
    captions: list[str]


class Shards:
    """The videos of one split in its own order, each with its captions there.

    Splits share the records of the videos they share. Threads may share a `Shards`; pickled, it is
    opened anew.
    """

    def __init__(self, directory: str | Path, split: str):
        self.directory, self.split = remote.place(directory), split
        self.manifest = read_manifest(self.directory)
        # TFDS's own from_config looks for TensorFlow to open the file with.
        content = _read_json(self.directory / "features.json")
        self._features = tfds.features.FeaturesDict.from_json(content)
        if split not in self.manifest["splits"]:
            raise ValueError(
                f"{directory} has no split {split!r}, only {', '.join(self.manifest['splits'])}:"
                " set config.data.train_split, eval_split, twin_split (eval: --split) to those."
            )
        path = self.directory / f"index_{split}.npz"
        try:
            with remote.local(path) as file, np.load(file, allow_pickle=False) as index:
                self._files = [self.directory / str(name) for name in index["files"]]
                self._shard, self._offset = index["shard"], index["offset"]
                self._length, self.video_ids = index["length"], index["video_id"]
                self.captions_per_video, self._stored = index["captions"], index["stored"]
                self._caption = np.split(index["caption"], np.cumsum(index["captions"])[:-1])
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} is missing: copy it too, or build the shards again."
            ) from None
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): copy it again.") from None
        self._open_files: dict[int, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._open_files)

    def __len__(self) -> int:
        return len(self._offset)

    def __reduce__(self):
        return Shards, (self.directory, self.split)

    def __getitem__(self, i: int) -> Record:
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.directory} has {len(self)} videos in {self.split}, not [{i}].")
        i = int(i) % len(self)
        example = self._features.deserialize_example_np(self._payload(i))
        video_id = example["video_id"].decode()
        stored = example["captions"]
        if video_id != self.video_ids[i] or len(stored) != self._stored[i]:
            known = f"{str(self.video_ids[i])!r} with {self._stored[i]} captions"
            raise self._damage(i, f"holds {video_id!r} where the index has {known}")
        captions = [stored[j].decode() for j in self._caption[i]]
        return Record(video_id, list(example["frames"]), example["timestamps"], captions)

    def _payload(self, i: int) -> bytes:
        length = int(self._length[i])
        data = self._bytes(i, length + 16)
        if len(data) < length + 16:
            raise self._damage(i, "ends before the record does, it was truncated")
        header, payload = data[:8], data[12:-4]
        if _checksum(header) != data[8:12] or struct.unpack("<Q", header)[0] != length:
            raise self._damage(i, "has another record there, or a damaged one")
        if _checksum(payload) != data[-4:]:
            raise self._damage(i, "is damaged: the record's checksum is wrong")
        return payload

    def _bytes(self, i: int, length: int) -> bytes:
        shard, offset = int(self._shard[i]), int(self._offset[i])
        if isinstance(self.directory, RemotePath):
            try:
                return self._files[shard].read_range(offset, length)
            except FileNotFoundError:
                raise self._damage(i, "cannot be opened (it is not there)") from None
        return os.pread(self._file(shard, i), length, offset)

    def _file(self, shard: int, i: int) -> int:
        with self._lock:
            if shard not in self._open_files:
                try:
                    self._open_files[shard] = os.open(self._files[shard], os.O_RDONLY)
                except OSError as error:
                    raise self._damage(i, f"cannot be opened ({error.strerror})") from None
            return self._open_files[shard]

    def _damage(self, i: int, what: str) -> ValueError:
        return ValueError(
            f"{self._files[self._shard[i]]} {what} (record {i} of {self.split}, byte"
            f" {self._offset[i]}): copy or build the shards again."
        )


def read_manifest(directory: str | Path) -> dict:
    """Returns what a finished folder of shards says about itself."""
    manifest = _read_json(remote.place(directory) / "manifest.json")
    if (found := manifest.get("format")) != FORMAT:
        raise ValueError(
            f"{directory} holds shards of format {found}, this version reads {FORMAT}: run"
            " `xclip-jax build` again."
        )
    return manifest


def _read_json(path: Path | RemotePath) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"No {path.name} in {path.parent}: not a folder of shards, or its build has not"
            " finished; run `xclip-jax build` again."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy or build the shards again.") from None


def _checksum(data: bytes) -> bytes:
    """Returns TFRecord's masked CRC32C of the data."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _close(open_files: dict[int, int]) -> None:
    for file in open_files.values():
        os.close(file)
