"""Examines a folder of shards: checksums, indices, frames; names file and record of every problem.

Each record is read once, however many splits share it, and its checksum with it.
"""

import collections
import hashlib
import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from tqdm import tqdm

from xclip_jax import frames, records


class Sample(NamedTuple):
    """A record of which every frame was decoded, and a split that it is in."""

    split: str
    record: records.Record


class Report(NamedTuple):
    """What was found: `problems` is empty if all is well."""

    problems: list[str]
    splits: dict[str, tuple[int, int]]  # split -> (videos, captions)
    videos: int
    frames: int
    samples: list[Sample]


def examine(folder: str | Path, *, samples: int) -> Report:
    """Checks all files and records of a folder, and decodes the frames of some, evenly spread."""
    folder = Path(folder)
    manifest = records.read_manifest(folder)
    problems, missing = _files(folder, manifest["sha256"])
    counts, places, first = {}, set(), {}
    for split, line in manifest["splits"].items():
        try:
            shards = records.Shards(folder, split)
            with np.load(folder / f"index_{split}.npz", allow_pickle=False) as file:
                index = {name: file[name] for name in file.files}
        except (ValueError, IndexError, FileNotFoundError) as error:
            problems.append(str(error))
            continue
        if found := _index(index):
            problems += [f"index_{split}.npz: {problem}" for problem in found]
            continue
        counts[split] = len(index["video_id"]), int(index["captions"].sum())
        stated = line["present"], line["captions"]
        if counts[split] != stated:
            problems.append(
                f"index_{split}.npz: {counts[split]} videos and captions, the manifest has {stated}"
            )
        for i, key in enumerate(_keys(index)):
            places.add(key[:2])
            first.setdefault(key, (shards, i))
    problems += _unknown(folder, places, manifest, missing)
    there = {key: at for key, at in first.items() if key[0] not in missing}
    found, frame_count, decoded = _records(there, manifest["frame_policy"]["short_side"], samples)
    return Report(problems + found, counts, len(places), frame_count, decoded)


def _files(folder: Path, sha256: dict[str, str]) -> tuple[list[str], set[str]]:
    """Compares every file with its checksum in the manifest; returns problems and what is gone."""
    problems, missing = [], {name for name in sha256 if not (folder / name).is_file()}
    size = sum((folder / name).stat().st_size for name in set(sha256) - missing)
    with tqdm(total=size, desc="files", unit="B", unit_scale=True) as bar:
        for name, expected in sha256.items():
            if name in missing:
                problems.append(f"{name}: missing, copy it or build the shards again")
                continue
            digest = hashlib.sha256()
            with open(folder / name, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
                    bar.update(len(block))
            if digest.hexdigest() != expected:
                problems.append(f"{name}: its sha256 is not the manifest's, the file has changed")
    return problems, missing


def _index(index: dict[str, np.ndarray]) -> list[str]:
    """Returns what is wrong with an index by itself."""
    count, problems = len(index["video_id"]), []
    for name in ("shard", "offset", "length", "captions", "stored"):
        if len(index[name]) != count:
            problems.append(f"{len(index[name])} of {name} for {count} videos")
    if problems:
        return problems
    if len(index["caption"]) != index["captions"].sum():
        problems.append(f"{len(index['caption'])} captions listed of {index['captions'].sum()}")
    elif (index["caption"] >= np.repeat(index["stored"], index["captions"])).any():
        problems.append("it names captions that its records do not have")
    if count and not 0 <= index["shard"].min() <= index["shard"].max() < len(index["files"]):
        problems.append(f"it names a file that is not among its {len(index['files'])}")
    often = collections.Counter(index["video_id"].tolist())
    return problems + [f"{name!r} is in it {n} times" for name, n in often.items() if n > 1]


def _keys(index: dict[str, np.ndarray]) -> list[tuple[str, int, str, int]]:
    """Returns for each video all that an index says of its record: file, offset, id, captions."""
    names = ("offset", "video_id", "stored")
    files = index["files"][index["shard"]].tolist()
    return list(zip(files, *(index[name].tolist() for name in names), strict=True))


def _unknown(folder: Path, places: set, manifest: dict, missing: set[str]) -> list[str]:
    """Returns the shards that the manifest lacks, and those with records that no index has."""
    there = {path.name for path in folder.glob("*.tfrecord-*")}
    unknown = sorted(there - set(manifest["sha256"]))
    problems = [f"{name}: the manifest does not know this file" for name in unknown]
    for name in sorted(there & set(manifest["sha256"]) - missing):
        offsets = {offset for file, offset in places if file == name}
        if extra := len(_offsets(folder / name) - offsets):
            problems.append(f"{name}: {extra} records that no index has, or damage to a length")
    return problems


def _offsets(path: Path) -> set[int]:
    found, size = set(), path.stat().st_size
    with open(path, "rb") as file:
        while file.tell() < size and len(header := file.read(8)) == 8:
            found.add(file.tell() - 8)
            file.seek(min(struct.unpack("<Q", header)[0] + 8, size), os.SEEK_CUR)
    return found


def _records(
    first: dict[tuple, tuple[records.Shards, int]], short_side: int, samples: int
) -> tuple[list[str], int, list[Sample]]:
    """Reads every record; returns problems, the number of frames and the records decoded."""
    chosen = {int(i) for i in np.linspace(0, len(first) - 1, min(samples, len(first)))}
    problems, frame_count, decoded = [], 0, []
    order = enumerate(sorted(first.items()))
    for number, (key, (shards, i)) in tqdm(order, "records", total=len(first), unit="record"):
        try:
            record = shards[i]
        except ValueError as error:
            problems.append(str(error))
            continue
        frame_count += len(record.frames)
        found = _record(record, short_side)
        if number in chosen and not found:
            found = _decode(record)
            decoded += [Sample(shards.split, record)] if not found else []
        where = f"{key[0]}: record {i} of {shards.split} ({record.video_id})"
        problems += [f"{where}: {problem}" for problem in found]
    return problems, frame_count, decoded


def _record(record: records.Record, short_side: int) -> list[str]:
    problems, times = [], record.timestamps
    if not record.frames:
        problems.append("it has no frames")
    if len(times) != len(record.frames):
        problems.append(f"{len(record.frames)} frames but {len(times)} timestamps")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        problems.append("its timestamps do not ascend")
    if not all(caption.strip() for caption in record.captions):
        problems.append("an empty caption")
    for i, jpeg in enumerate(record.frames):
        try:
            height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
        except ValueError as error:
            problems.append(f"frame {i} is no JPEG image ({error})")
            break
        if min(height, width) != short_side:
            expected = f"the manifest says {short_side} for the shorter side"
            problems.append(f"frame {i} has {width} x {height} pixels, {expected}")
            break
    return problems


def _decode(record: records.Record) -> list[str]:
    for i, jpeg in enumerate(record.frames):
        try:
            frames.decode_jpeg(jpeg)
        except ValueError as error:
            return [f"frame {i} cannot be decoded: {error}"]
    return []
