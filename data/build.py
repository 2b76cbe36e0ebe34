"""From clips to a folder of TFRecord shards that training reads: decode, write, index, manifest.

A build that is killed goes on where it was; the manifest comes last, so that a folder that has one
is whole.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from xclip_jax import frame_policy, frames, remote
from xclip_jax.data import catalog, coverage, disk, index, publish
from xclip_jax.data.benchmark import Benchmark, standing
from xclip_jax.data.clips import Clip, decode, fingerprint, of_benchmark, problems, several
from xclip_jax.data.processes import parallel
from xclip_jax.data.shard_builder import ShardBuilder
from xclip_jax.version import __version__

FORMAT = 2  # 1 had frames once a split, not once a video


def build(clips: list[Clip], out: str | Path, *, name: str, source: str = "", **settings) -> dict:
    """Writes shards of anybody's own clips into `out`; returns the manifest.

    Args:
        clips: what to build from; the reader's order is this one within each split.
        out: the folder, which `records.Shards` then reads.
        name: the beginning of the shards' names.
        source: where the clips come from, for the manifest.
        settings: as `build_benchmark` takes them.
    """
    clips = list(clips)
    if found := problems(clips):
        raise ValueError(f"These clips cannot be built: {several(found)}.")
    splits = {clip.split: {} for clip in clips}
    for clip in clips:
        splits[clip.split][clip.video_id] = list(clip.captions)
    windows = {clip.video_id: (clip.start, clip.end) for clip in clips}
    benchmark = Benchmark(name, splits, {}, windows)
    paths = {clip.video_id: clip.path for clip in clips}
    with disk.needed(out):
        return _build(benchmark, paths, out, source=source, **settings)


def build_benchmark(
    benchmark: Benchmark,
    video_root: str | Path,
    out: str | Path,
    *,
    max_words: int = 32,
    count_tokens: Callable[[list[str]], Iterable[int]] | None = None,
    **settings,
) -> dict:
    """Writes shards of a benchmark whose videos lie below `video_root`; returns the manifest.

    What is there and what is missing is printed first, and noted in the manifest.

    Args:
        benchmark: what the data set's reader gave.
        video_root: searched by the names that the data set's files answer to.
        out: the folder, which `records.Shards` then reads.
        max_words, count_tokens: as `coverage.cover` takes them.
        settings: as `_build` takes them: policy, short_side, workers, allow_missing, source,
            vocab.
    """
    _check(benchmark.name, settings.get("policy", frame_policy.DEFAULT), settings.get("vocab"))
    paths = catalog.find(benchmark, video_root)
    workers = settings.get("workers")
    covered = coverage.cover(
        benchmark, paths, max_words=max_words, count_tokens=count_tokens, workers=workers
    )
    print(coverage.table(covered), flush=True)
    # The videos that are left out stand under "skipped" with their reasons.
    facts = {key: covered[key] for key in covered if key not in ("missing", "unreadable", "notes")}
    with disk.needed(out):
        return _build(benchmark, paths, out, facts={"coverage": facts}, **settings)


def _build(
    benchmark: Benchmark,
    paths: dict[str, Path],
    out: str | Path,
    *,
    policy: str = frame_policy.DEFAULT,
    short_side: int = 224,
    workers: int | None = None,
    allow_missing: bool = False,
    source: str = "",
    vocab: str | Path | None = None,
    facts: dict | None = None,
    run: Callable = parallel,
) -> dict:
    """Writes shards, indices and manifest into `out`, which `records.Shards` then reads.

    Frames are stored once a video; every split has an index into them, with its own captions.

    Args:
        benchmark: the splits, in the order to be read in.
        paths: video id -> file; videos without one are skipped as missing.
        out: the folder, or an address such as gs://bucket/shards; unfinished work lies in its
            `.work` and is taken up by the next build.
        policy: which frames to store, a name that `frame_policy` knows.
        short_side: the pixels of each frame's shorter side.
        workers: decoding processes; by default one a core.
        allow_missing: builds even if more than 1 % of the videos have to be skipped.
        source: where it all comes from, for the manifest.
        vocab: a vocabulary file to lay beside the shards.
        facts: more to note in the manifest.
        run: what decodes in parallel, as `clips.decode` takes it.

    Returns:
        The manifest.
    """
    out, settings = remote.place(out), {"policy": policy, "short_side": short_side}
    clips = of_benchmark(benchmark, paths)
    _check(benchmark.name, policy, vocab)
    identity = _identity(benchmark, clips, settings, [source, vocab and _sha256(vocab)])
    old = publish.read_manifest(out)
    if old.get("fingerprint") == identity:
        print(f"{out}: already built from these clips with these settings.", file=sys.stderr)
        return old

    work = out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    decoded, skipped = decode(
        clips, work, **settings, workers=workers, allow_missing=allow_missing, run=run
    )
    stored = {clip.video_id: clip.captions for clip, _ in decoded}
    splits, left_out = _present(benchmark, stored, allow_missing=allow_missing)
    with publish.staging(work) as folder:
        decoded = publish.fetched(decoded, folder)
        written = _write(benchmark.name, decoded, folder / "shards")
        index.write(written, splits, stored)
        if vocab:
            shutil.copyfile(vocab, written / Path(vocab).name)
        files = tqdm(sorted(written.iterdir()), "check")
        manifest = {
            "format": FORMAT,
            "name": benchmark.name,
            "source": source,
            "fingerprint": identity,
            "frame_policy": {
                "name": policy,
                "short_side": short_side,
                "jpeg_quality": frames.JPEG_QUALITY,
                "jpeg_subsampling": frames.JPEG_SUBSAMPLING,
            },
            "versions": _versions(),
            "splits": {s: standing(benchmark, s, members) for s, members in splits.items()},
            "videos": len(decoded),
            "notes": [*benchmark.notes, *left_out],
            **(facts or {}),
            "vocab": Path(vocab).name if vocab else None,
            "skipped": [
                line | {"splits": [s for s, them in benchmark.splits.items() if line["id"] in them]}
                for line in skipped
            ],
            "ended_early": _ended_early(decoded),
            "sha256": {path.name: _sha256(path) for path in files},
        }
        publish.publish(written, out, old, manifest)
    return manifest


def _check(name: str, policy: str, vocab: str | Path | None) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(f"name={name!r}: give small letters, digits and _, a letter first.")
    frame_policy.parse(policy)
    if vocab and not Path(vocab).is_file():
        raise FileNotFoundError(f"No vocabulary file {vocab}.")


def _identity(benchmark: Benchmark, clips: list[Clip], settings: dict, rest: list) -> str:
    """Returns a fingerprint of all that the shards are made of."""
    identity = hashlib.sha256(json.dumps([FORMAT, settings, rest, benchmark.name]).encode())
    for clip in clips:
        identity.update(json.dumps([fingerprint(clip, **settings), *clip[2:]]).encode())
    for part in (benchmark.splits, benchmark.official, benchmark.notes):
        identity.update(json.dumps(part).encode())
    return identity.hexdigest()


def _present(
    benchmark: Benchmark, stored: dict, *, allow_missing: bool
) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Returns the splits without the videos that were skipped, and a line for each that is empty
    and so left out."""
    kept = {
        split: {video_id: texts for video_id, texts in members.items() if video_id in stored}
        for split, members in benchmark.splits.items()
    }
    empty = [split for split, members in kept.items() if not members]
    if empty and not (allow_missing and stored):
        raise ValueError(
            f"Every clip of {', '.join(empty)} had to be skipped: nothing to write. Mend them, or"
            " build the other splits: --allow-missing."
        )
    lines = [f"left out {split}: every clip of it had to be skipped" for split in empty]
    for line in lines:
        print(line, file=sys.stderr)
    return {split: members for split, members in kept.items() if members}, lines


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


def _versions() -> dict[str, str]:
    packages = ("av", "pillow", "tensorflow-datasets")
    return {"xclip_jax": __version__} | {
        package: importlib.metadata.version(package) for package in packages
    }


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
