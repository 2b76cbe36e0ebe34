"""Finds the video files of a benchmark's ids in one walk of a folder.

Each data set has its rule of which ids a file's name answers to (`RULES`); the work is linear in
files and ids.
"""

import collections
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from xclip_jax import remote
from xclip_jax.data.clips import several
from xclip_jax.remote import RemotePath

PREFERRED = (".mp4", ".webm")
UNFINISHED = (".part", ".ytdl", ".crdownload", ".partial", ".tmp", ".download", ".aria2", ".!ut")
# What downloaders and feature extractors lay beside a video under its name.
TEXTS = (".json", ".jsonl", ".txt", ".csv", ".tsv", ".xml", ".html", ".md", ".log", ".vtt", ".srt")
MEDIA = (".jpg", ".jpeg", ".png", ".webp", ".wav", ".mp3", ".m4a", ".aac", ".opus", ".ogg")
ARRAYS = (".npy", ".npz", ".pkl", ".pt", ".h5", ".zip", ".tar", ".gz", ".md5", ".sha256")
SIDECARS = frozenset(TEXTS + MEDIA + ARRAYS)


def find(
    root: str | Path,
    ids: Iterable[str],
    *,
    names: Callable[[str], Iterable[str]] | None = None,
    id_names: Callable[[str], Iterable[str]] | None = None,
) -> dict[str, Path | RemotePath]:
    """Returns the file of each id that has one, in the order of the ids.

    Files that answer to the id itself go before those that answer to another form of it. Of several
    still, the first is chosen that is not empty, by .mp4, .webm and others, then the shorter path,
    then the alphabet; a line says so and names them.

    Args:
        root: a folder, searched with all folders in it; links are followed, each folder once. Or
            the address of one.
        ids: what to look for.
        names: from a file's name to the names it answers to; by default the name without its
            last suffix.
        id_names: from an id to the names it is looked for under, the best first; by default itself.
    """
    root = remote.place(root)
    if not root.is_dir():
        raise FileNotFoundError(f"No folder of videos {root}.")
    ids = list(dict.fromkeys(ids))
    wanted = _wanted(ids, id_names)
    candidates = collections.defaultdict(dict)
    for path in _files(root):
        for name in (names or stem_names)(path.name):
            for rank, video_id in wanted.get(name, ()):
                candidates[video_id][path] = min(rank, candidates[video_id].get(path, rank))
    found, lines = {}, []
    for video_id in ids:
        if paths := _distinct(candidates.get(video_id, {})):
            found[video_id], *others = paths
            if others:
                rest = ", ".join(map(str, others))
                lines.append(f"{video_id!r} has {paths[0]} (used) and {rest}")
    if lines:
        print(f"more than one file for an id: {several(lines)}", file=sys.stderr)
    return found


def stem_names(name: str) -> tuple[str, ...]:
    """Returns a file's name without its last suffix: MSR-VTT, MSVD, LSMDC, VATEX."""
    return (name.rpartition(".")[0] or name,)


def activitynet_names(name: str) -> tuple[str, ...]:
    """Returns the ids `v_...` of a file whose name may have lost its `v_`.

    Nothing is cut off, since an id of YouTube may itself begin with `v_`.
    """
    (stem,) = stem_names(name)
    return stem, f"v_{stem}"


def didemo_names(name: str) -> tuple[str, ...]:
    """Returns the forms of a DiDeMo name: itself, without a final `.mp4`, and their stems.

    The ids end in the suffix of the original (`.mov`, `.mp4`, or a bare `.`), whatever the file
    became on the way.
    """
    bare = name[:-4] if name.lower().endswith(".mp4") else name
    return tuple(dict.fromkeys((name, bare, *stem_names(name), *stem_names(bare))))


RULES = {
    "activitynet": {"names": activitynet_names, "id_names": activitynet_names},
    "didemo": {"names": didemo_names, "id_names": didemo_names},
}


def _wanted(ids: list[str], id_names: Callable | None) -> dict[str, list[tuple[int, str]]]:
    """Returns name -> (how far from the id's own form, id)."""
    wanted = collections.defaultdict(list)
    for video_id in ids:
        for rank, name in enumerate(id_names(video_id) if id_names else (video_id,)):
            wanted[name].append((rank, video_id))
    # A form that two ids share tells neither from the other: it is left to the one it is.
    return {
        name: those if len(those) == 1 else [pair for pair in those if pair[1] == name]
        for name, those in wanted.items()
    }


def _files(root: Path | RemotePath) -> Iterable[Path | RemotePath]:
    """Yields the files that may be videos."""
    for path in root.files() if isinstance(root, RemotePath) else _walk(root):
        suffix = path.suffix.lower()
        unfinished = suffix.startswith(UNFINISHED)  # also .part-Frag3
        if not path.name.startswith(".") and not unfinished and suffix not in SIDECARS:
            yield path


def _walk(root: Path) -> Iterable[Path]:
    """Yields the files below; every folder once, so that a circle of links ends."""
    seen = set()

    def fail(error: OSError):
        raise FileNotFoundError(f"{error.filename} cannot be read: {error.strerror}.") from None

    for folder, folders, files in os.walk(root, followlinks=True, onerror=fail):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            yield Path(folder, name)


def _distinct(ranks: dict[Path, int]) -> list[Path]:
    """Returns the different files that answer best to one id, the chosen one first."""
    best = [path for path, rank in ranks.items() if rank == min(ranks.values())]
    if len(best) < 2:
        return best

    def key(path: Path) -> tuple:
        suffix = path.suffix.lower()
        preference = PREFERRED.index(suffix) if suffix in PREFERRED else len(PREFERRED)
        return _size(path) == 0, preference, len(str(path)), str(path)

    files = {}
    for path in sorted(best, key=key):
        files.setdefault(path.resolve(), path)  # a link to a file is not another file
    return list(files.values())


def _size(path: Path | RemotePath) -> int:
    try:
        return remote.version(path)[0] or 0
    except OSError:  # a link to nothing
        return 0
