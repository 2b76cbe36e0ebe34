"""What of a benchmark is there, before anything is built: videos, captions, and what is odd.

Captions are only counted and measured here; nothing is written.
"""

import collections
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from xclip_jax import remote, video
from xclip_jax.data.benchmark import Benchmark, count, videos
from xclip_jax.data.processes import parallel
from xclip_jax.remote import RemotePath

SHOWN = 10  # missing ids


def cover(
    benchmark: Benchmark,
    paths: dict[str, Path],
    *,
    max_words: int,
    count_tokens: Callable[[list[str]], Iterable[int]] | None,
    workers: int | None = None,
) -> dict:
    """Returns what is there of each split, as `table` shows it and the manifest keeps it.

    Args:
        benchmark: as its annotation files give it.
        paths: video id -> file, of those found.
        max_words: tokens that a model takes of a caption, its two ends among them.
        count_tokens: captions -> tokens of each, ends included; None without a vocabulary.
        workers: probing processes; by default one a core.
    """
    broken = probe(paths, workers)
    wanted = videos(benchmark)
    tokens = {}
    if count_tokens:
        texts = list({text for captions in wanted.values() for text in captions})
        tokens = dict(zip(texts, count_tokens(texts), strict=True))
    splits = {}
    for split, members in benchmark.splits.items():
        texts = [text for captions in members.values() for text in captions]
        here = {v: texts for v, texts in members.items() if v in paths and v not in broken}
        official = benchmark.official.get(split)
        splits[split] = {
            "official": official and list(official),
            "listed": list(count(members)),
            "present": list(count(here)),
            "missing": sum(v not in paths for v in members),
            "unreadable": sum(v in broken for v in members),
            "repeated_captions": sum(len(t) - len(set(t)) for t in members.values()),
            "empty_captions": sum(not text.strip() for text in texts),
            "longer": int(sum(tokens[text] > max_words for text in texts)) if tokens else None,
            "complete": official is not None and tuple(official) == count(here),
        }
    return {
        "max_words": max_words,
        "splits": splits,
        "notes": list(benchmark.notes),
        "in_train_and_test": _shared(benchmark),
        "one_file_for_several_ids": _doubled(paths),
        "missing": [video_id for video_id in wanted if video_id not in paths],
        "unreadable": broken,
    }


def probe(paths: dict[str, Path], workers: int | None) -> dict[str, str]:
    """Returns the videos whose first frame cannot be had, and why.

    Those on other machines are not fetched for it: the build finds what is wrong with them.
    """
    away = {v: path for v, path in paths.items() if isinstance(path, RemotePath)}
    broken = {
        v: f"{path}: unreadable (it is empty)"
        for v, path in away.items()
        if not remote.version(path)[0]
    }
    jobs = {video_id: (path,) for video_id, path in paths.items() if video_id not in away}
    with tqdm(total=len(jobs), desc="probe", unit="video", disable=not jobs) as bar:
        for video_id, reason in parallel(_problem, jobs, workers):
            if isinstance(reason, BrokenProcessPool):
                reason = f"{paths[video_id]}: unreadable (its decoding process died)"
            if reason:
                broken[video_id] = reason
            bar.update()
    return {video_id: broken[video_id] for video_id in paths if video_id in broken}


def _problem(path: Path) -> str | None:
    try:
        video.probe(path)
        next(iter(video.decode(path, [0])))
    except Exception as error:  # a strange file must not end the survey
        return str(error) if isinstance(error, video.VideoError) else f"{path}: {error!r}"
    return None


def _shared(benchmark: Benchmark) -> dict[str, int]:
    """Returns how many videos each training split shares with each split that is tested on."""
    found = {}
    for train, trained in benchmark.splits.items():
        for test, tested in benchmark.splits.items():
            if train.startswith("train") and not test.startswith("train"):
                found[f"{train} and {test}"] = len(trained.keys() & tested.keys())
    return {pair: number for pair, number in found.items() if number}


def _doubled(paths: dict[str, Path]) -> dict[str, list[str]]:
    """Returns the files that several ids are found in."""
    ids = collections.defaultdict(list)
    for video_id, path in paths.items():
        ids[str(path.resolve())].append(video_id)
    return {path: several for path, several in ids.items() if len(several) > 1}


def table(covered: dict) -> str:
    """Returns what was found as text: a line a split, then what is odd and what is missing."""
    head = ["split", "official", "listed", "present", "missing", "unreadable", "captions"]
    rows = [[*head, f"over {covered['max_words']} tokens", ""]]
    for split, found in covered["splits"].items():
        captions = found["listed"][1]
        longer = found["longer"]
        share = "?" if longer is None else f"{longer / max(captions, 1):.1%}"
        rows.append(
            [
                split,
                "-" if found["official"] is None else "{:,}/{:,}".format(*found["official"]),
                "{:,}/{:,}".format(*found["listed"]),
                f"{found['present'][0]:,}",
                f"{found['missing']:,}",
                f"{found['unreadable']:,}",
                f"{found['present'][1]:,}",
                share,
                "complete" if found["complete"] else "",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if i in (0, len(row) - 1) else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *_remarks(covered)])


def _remarks(covered: dict) -> list[str]:
    lines = list(covered["notes"])
    for key, what in (("repeated", "captions a video has twice"), ("empty", "empty captions")):
        counts = {s: found[f"{key}_captions"] for s, found in covered["splits"].items()}
        if known := [f"{split} {number:,}" for split, number in counts.items() if number]:
            lines.append(f"{what}: {', '.join(known)}")
    if covered["in_train_and_test"]:
        pairs = [f"{pair} {number:,}" for pair, number in covered["in_train_and_test"].items()]
        lines.append(f"videos in both: {', '.join(pairs)}")
    for path, ids in covered["one_file_for_several_ids"].items():
        lines.append(f"one file for several ids: {path}: {', '.join(ids)}")
    if any(found["longer"] is None for found in covered["splits"].values()):
        lines.append("captions were not counted in tokens: no vocabulary found, give --vocab FILE")
    for key in ("missing", "unreadable"):
        if ids := list(covered[key]):
            rest = f", ... ({len(ids):,} in all)" if len(ids) > SHOWN else ""
            lines.append(f"{key}: {', '.join(ids[:SHOWN])}{rest}")
    return lines
