"""From clips to a folder of TFRecord shards that training reads: decode, write, index, manifest.

A build that is killed goes on where it was; the manifest comes last, so that a folder that has one
is whole.
"""

import collections
import contextlib
import hashlib
import importlib.metadata
import io
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

from xclip_jax import frames
from xclip_jax.data.clips import Clip, decode, fingerprint, problems, several
from xclip_jax.data.shard_builder import ShardBuilder
from xclip_jax.version import __version__

FORMAT = 1


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
        rate: frames to keep of each second, 0 for all.
        workers: decoding processes; by default one a core.
        allow_missing: builds even if more than 1 % of the clips have to be skipped.
        source: where the clips come from, for the manifest.
        vocab: a vocabulary file to lay beside the shards.

    Returns:
        The manifest.
    """
    out, clips = Path(out), list(clips)
    _check(clips, name, vocab)
    policy = {"rate": rate, "short_side": short_side}
    identity = _identity(clips, policy, [name, source, vocab and _sha256(vocab)])
    old = _read_manifest(out)
    if old.get("fingerprint") == identity:
        print(f"{out}: already built from these clips with these settings.", file=sys.stderr)
        return old

    work = out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    decoded, skipped = decode(clips, work, **policy, workers=workers, allow_missing=allow_missing)
    kept = _by_split(clips, decoded)
    written = _write(name, decoded, work / "shards")
    for split, members in kept.items():
        _write_index(written, split, [clip for clip, _ in members])
    if vocab:
        shutil.copyfile(vocab, written / Path(vocab).name)
    official = collections.Counter(clip.split for clip in clips)
    manifest = {
        "format": FORMAT,
        "name": name,
        "source": source,
        "fingerprint": identity,
        "frame_policy": {
            "name": f"clip4clip_{rate}fps",
            **policy,
            "jpeg_quality": frames.JPEG_QUALITY,
            "jpeg_subsampling": frames.JPEG_SUBSAMPLING,
        },
        "versions": _versions(),
        "splits": {
            split: {
                "official": official[split],
                "present": len(members),
                "captions": sum(len(clip.captions) for clip, _ in members),
            }
            for split, members in kept.items()
        },
        "vocab": Path(vocab).name if vocab else None,
        "skipped": skipped,
        "ended_early": _ended_early(decoded),
        "sha256": {path.name: _sha256(path) for path in tqdm(sorted(written.iterdir()), "check")},
    }
    _publish(written, out, old, manifest)
    shutil.rmtree(work)
    return manifest


def _check(clips: list[Clip], name: str, vocab: str | Path | None) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(f"name={name!r}: give small letters, digits and _, a letter first.")
    if found := problems(clips):
        raise ValueError(f"These clips cannot be built: {several(found)}.")
    if vocab and not Path(vocab).is_file():
        raise FileNotFoundError(f"No vocabulary file {vocab}.")


def _identity(clips: list[Clip], policy: dict, rest: list) -> str:
    """Returns a fingerprint of all that the shards are made of."""
    identity = hashlib.sha256(json.dumps([FORMAT, policy, rest]).encode())
    for clip in clips:
        made_of = [fingerprint(clip, **policy), clip.video_id, clip.split, clip.captions]
        identity.update(json.dumps(made_of).encode())
    return identity.hexdigest()


def _by_split(clips: list[Clip], decoded: list) -> dict[str, list]:
    kept = {clip.split: [] for clip in clips}
    for clip, path in decoded:
        kept[clip.split].append((clip, path))
    if empty := [split for split, members in kept.items() if not members]:
        raise ValueError(f"Every clip of {', '.join(empty)} had to be skipped: nothing to write.")
    return kept


def _write(name: str, decoded: list, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)  # of a build killed while writing
    # TensorFlow greets at length otherwise; here it only writes the records to disk.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    builder = ShardBuilder(name=name, decoded=decoded, data_dir=str(folder))
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.display_progress_bar(False)  # the builder shows its own, with a total
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=config, download_dir=str(folder / "none"))
    finally:
        tfds.display_progress_bar(True)
    return Path(builder.data_dir)


def _write_index(folder: Path, split: str, clips: list[Clip]) -> None:
    """Saves where each record of a split lies, in the order of the clips."""
    files = sorted(folder.glob(f"*-{split}.tfrecord-*"))
    shard, offset, length = [], [], []
    for i, path in enumerate(files):
        with open(path, "rb") as file:
            while header := file.read(8):
                shard.append(i)
                offset.append(file.tell() - 8)
                length.append(struct.unpack("<Q", header)[0])
                file.seek(length[-1] + 8, os.SEEK_CUR)  # a checksum before the data, one behind
    if len(shard) != len(clips):
        raise RuntimeError(f"{len(shard)} records written for {len(clips)} clips of {split}.")
    np.savez(
        folder / f"index_{split}.npz",
        files=np.array([path.name for path in files]),
        shard=np.array(shard, np.int32),
        offset=np.array(offset, np.int64),
        length=np.array(length, np.int64),
        captions=np.array([len(clip.captions) for clip in clips], np.int32),
        video_id=np.array([clip.video_id for clip in clips]),
    )


def _ended_early(decoded: list) -> list[dict]:
    """Returns the clips whose data ended before their header said, and says so."""
    found = []
    for clip, path in decoded:
        with np.load(path) as saved:
            count, planned = len(saved["lengths"]), int(saved["planned"])
        if count < planned:
            found.append({"id": clip.video_id, "frames": count, "planned": planned})
            line = "ended early {id}: {frames} of {planned} frames".format(**found[-1])
            print(line, file=sys.stderr)
    return found


def _publish(written: Path, out: Path, old: dict, manifest: dict) -> None:
    """Moves the finished files into place; the old manifest goes first, the new one comes last."""
    (out / "manifest.json").unlink(missing_ok=True)
    for name in old.get("sha256", {}):
        (out / name).unlink(missing_ok=True)
    for path in written.iterdir():
        os.replace(path, out / path.name)
    partial = out / ".work" / "manifest.json"
    partial.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, out / "manifest.json")


def _read_manifest(out: Path) -> dict:
    """Returns the manifest of a finished build; empty if there is none that can be read."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    return {}


def _versions() -> dict[str, str]:
    packages = ("av", "pillow", "tensorflow-datasets")
    return {"xclip_jax": __version__} | {
        package: importlib.metadata.version(package) for package in packages
    }


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
