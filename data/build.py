"""From clips to a folder of TFRecord shards that training reads: decode, write, index, manifest.

A build that is killed goes on where it was; the manifest comes last, so that a folder that has one
is whole.
"""

import collections
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm
from xclip_jax.data import shard_builder
from xclip_jax.data.clips import Clip, decode_all, fingerprint

from xclip_jax import frames
from xclip_jax.version import __version__

MAX_SKIPPED = 0.01
MANIFEST_FORMAT = 1


def build(
    clips: list[Clip],
    out: str | Path,
    *,
    name: str,
    short_side: int = 224,
    rate: int = 1,
    workers: int | None = None,
    allow_missing: bool = False,
    source: str = "",
    vocab: str | Path | None = None,
) -> dict:
    """Writes shards, indices and manifest into `out`, which `records.Shards` then reads.

    Args:
        clips: what to build from; the reader's order is this one within each split.
        out: the folder; unfinished work lies in its `.work` and is taken up by the next build.
        name: the beginning of the shards' names.
        short_side: the pixels of each frame's shorter side.
        rate: frames to keep of each second.
        workers: decoding processes; by default one a core.
        allow_missing: builds even if more than 1 % of the clips have to be skipped.
        source: where the clips come from, for the manifest.
        vocab: a vocabulary file to lay beside the shards.

    Returns:
        The manifest.
    """
    out, clips = Path(out), list(clips)
    _check(clips, name, vocab)
    prints = [fingerprint(clip, rate=rate, short_side=short_side) for clip in clips]
    made_of = [MANIFEST_FORMAT, name, short_side, rate, source, vocab and Path(vocab).name]
    identity = hashlib.sha256()
    for part in [made_of, *zip(prints, clips, strict=True)]:
        identity.update(json.dumps(part, default=str).encode())
    old = _read_manifest(out)
    if old.get("fingerprint") == identity.hexdigest():
        print(f"{out}: already built from these clips with these settings.", file=sys.stderr)
        return old

    work = out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    examples, skipped = _decode(clips, prints, work, rate, short_side, workers)
    _report(skipped, len(clips), allow_missing)
    splits = collections.defaultdict(list)
    for example in examples:
        splits[example.clip.split].append(example)
    counts = _counts(clips, splits)

    written = _write(name, splits, work / "shards")
    for split, kept in splits.items():
        _write_index(written, split, kept)
    if vocab:
        shutil.copyfile(vocab, written / Path(vocab).name)
    manifest = {
        "format": MANIFEST_FORMAT,
        "name": name,
        "source": source,
        "fingerprint": identity.hexdigest(),
        "frame_policy": {
            "name": f"clip4clip_{rate}fps",
            "rate": rate,
            "short_side": short_side,
            "jpeg_quality": frames.JPEG_QUALITY,
            "jpeg_subsampling": frames.JPEG_SUBSAMPLING,
        },
        "versions": {"xclip_jax": __version__} | _versions("av", "pillow", "tensorflow-datasets"),
        "splits": counts,
        "vocab": Path(vocab).name if vocab else None,
        "skipped": skipped,
        "sha256": {path.name: _sha256(path) for path in sorted(written.iterdir())},
    }
    _publish(written, out, old, manifest)
    shutil.rmtree(work)
    return manifest


def _check(clips: list[Clip], name: str, vocab: str | Path | None) -> None:
    problems = []
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        problems.append(f"name {name!r}: small letters, digits and _, a letter first")
    if not clips:
        problems.append("no clips given")
    for video_id, count in collections.Counter(clip.video_id for clip in clips).items():
        if count > 1:
            problems.append(f"{video_id!r}: {count} clips have this id, each needs its own")
    for clip in clips:
        if not clip.video_id:
            problems.append(f"{clip.path}: its id is empty")
        if not clip.captions or not all(caption.strip() for caption in clip.captions):
            problems.append(f"{clip.video_id!r}: no caption, or an empty one")
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", clip.split) or clip.split == "all":
            problems.append(f"{clip.video_id!r}: split {clip.split!r}, give letters, digits and _")
    if problems:
        raise ValueError(f"Cannot build {name}: " + _ten(problems))
    if vocab and not Path(vocab).is_file():
        raise FileNotFoundError(f"No vocabulary file {vocab}.")


def _decode(clips, prints, work, rate, short_side, workers):
    """Returns the clips decoded, in order, and the skipped ones with the reason."""
    wrong, jobs = {}, {}
    for clip, key in zip(clips, prints, strict=True):
        if key and not (work / f"{key}.npz").exists():
            jobs[work / f"{key}.npz"] = clip
    done = len(clips) - len(jobs)
    with tqdm(total=len(clips), initial=done, desc="decoding", unit="clip") as bar:
        for path, problem in decode_all(
            jobs, rate=rate, short_side=short_side, workers=workers or _cores()
        ):
            if problem:
                wrong[path] = problem
            bar.update()
    examples, skipped = [], []
    for clip, key in zip(clips, prints, strict=True):
        path = work / f"{key}.npz"
        reason = wrong.get(path) if key else f"{clip.path}: missing (no such file)"
        if reason:
            skipped.append({"id": clip.video_id, "split": clip.split, "reason": reason})
        else:
            examples.append(shard_builder.Example(clip, path))
    return examples, skipped


def _report(skipped: list[dict], count: int, allow_missing: bool) -> None:
    lines = [f"{clip['id']}: {clip['reason']}" for clip in skipped]
    for line in lines:
        print(f"skipped {line}", file=sys.stderr)
    if len(skipped) > MAX_SKIPPED * count and not allow_missing:
        raise ValueError(
            f"{len(skipped)} of {count} clips cannot be used, more than 1 %: {_ten(lines)}. Mend"
            " them, take them off the list, or build without them by --allow-missing."
        )


def _counts(clips: list[Clip], splits: dict[str, list]) -> dict[str, dict]:
    official = collections.Counter(clip.split for clip in clips)
    if empty := [split for split in official if not splits[split]]:
        raise ValueError(f"Nothing to write: every clip of the split {empty} had to be skipped.")
    return {
        split: {
            "official": official[split],
            "present": len(kept),
            "captions": sum(len(example.clip.captions) for example in kept),
        }
        for split, kept in splits.items()
    }


def _write(name: str, splits: dict[str, list], folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)  # of a build killed while writing
    builder = shard_builder.ShardBuilder(name=name, examples=splits, data_dir=str(folder))
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config, download_dir=str(folder / "downloads"))
    return Path(builder.data_dir)


def _write_index(folder: Path, split: str, examples: list) -> None:
    """Saves where each record of a split lies, in the order of the examples."""
    files = sorted(folder.glob(f"*-{split}.tfrecord-*"))
    shard, offset, length = [], [], []
    for i, path in enumerate(files):
        position, size = 0, path.stat().st_size
        with open(path, "rb") as file:
            while position < size:
                file.seek(position)
                (payload,) = struct.unpack("<Q", file.read(8))
                shard.append(i)
                offset.append(position)
                length.append(payload)
                position += payload + 16  # the length and its checksum before, one behind
    np.savez(
        folder / f"index_{split}.npz",
        files=np.array([path.name for path in files]),
        shard=np.array(shard, np.int32),
        offset=np.array(offset, np.int64),
        length=np.array(length, np.int64),
        captions=np.array([len(example.clip.captions) for example in examples], np.int32),
        video_id=np.array([example.clip.video_id for example in examples]),
    )


def _publish(written: Path, out: Path, old: dict, manifest: dict) -> None:
    """Moves the finished files into place; the manifest goes first when old and comes last."""
    (out / "manifest.json").unlink(missing_ok=True)
    for name in old.get("sha256", {}):
        (out / name).unlink(missing_ok=True)
    for path in written.iterdir():
        os.replace(path, out / path.name)
    partial = out / ".work" / "manifest.json"
    partial.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, out / "manifest.json")


def _read_manifest(out: Path) -> dict:
    path = out / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ten(lines: list[str]) -> str:
    rest = f"; and {len(lines) - 10} more, {len(lines)} in all" if len(lines) > 10 else ""
    return "; ".join(lines[:10]) + rest
