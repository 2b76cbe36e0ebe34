"""Reads anybody's own list of clips and captions: JSON lines, a JSON list, or CSV.

README.md in this folder shows the three forms.
"""

import collections
import csv
import io
import json
import math
from pathlib import Path, PurePath, PurePosixPath

from etils import epath

from xclip_jax import remote
from xclip_jax.data.clips import Clip, problems, several
from xclip_jax.data.shard_builder import ShardBuilder
from xclip_jax.remote import RemotePath


class Builder(ShardBuilder):
    """The way in for `tfds`; `xclip-jax build` decodes in parallel, resumes, and skips clips."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put captions.jsonl and the videos it names into manual_dir."
    pkg_dir_path = epath.Path(__file__).parent

    def read(self, folder: Path) -> list[Clip]:
        """Returns the clips of captions.jsonl in TFDS's `manual_dir`."""
        return read_clips(folder / "captions.jsonl")


def read_clips(
    captions_file: str | Path, video_root: str | Path | None = None, *, split: str | None = None
) -> list[Clip]:
    """Returns the clips of a list, in its order.

    Args:
        captions_file: .csv, or JSON in any other file.
        video_root: the folder that relative paths begin from; by default the list's own. Both may
            be addresses, gs://bucket/clips and the like, and so may the paths in the list.
        split: puts all clips into this split, whatever the list says.
    """
    captions_file = remote.place(captions_file)
    root = remote.place(video_root) if video_root else captions_file.parent
    if not captions_file.is_file():
        raise FileNotFoundError(f"No list of captions {captions_file}.")
    if not root.is_dir():
        raise FileNotFoundError(f"No folder of videos {root}.")

    try:
        text = captions_file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{captions_file} is not text in UTF-8: {error}.") from None
    read = _csv_entries if captions_file.suffix.lower() == ".csv" else _json_entries
    entries, wrong = read(text)
    clips = []
    for where, entry in entries:
        entry = entry | ({"split": split} if split else {})
        if found := _entry_problems(entry):
            wrong.append(f"{where}: {', '.join(found)}")
        else:
            clips.append(_clip(entry, root))
    clips = _name(clips, root)
    wrong += problems(clips) if clips or not wrong else []
    if wrong:
        raise ValueError(f"{captions_file} cannot be used: {several(wrong)}.")
    return clips


def _json_entries(text: str) -> tuple[list[tuple[str, dict]], list[str]]:
    """Returns (where, entry) of a JSON list or of JSON lines, and what could not be read."""
    entries, wrong = [], []
    if text.lstrip().startswith("["):
        try:
            found = [(f"entry {i}", entry) for i, entry in enumerate(json.loads(text), 1)]
        except json.JSONDecodeError as error:
            return [], [f"not JSON ({error})"]
    else:
        found = []
        for i, line in enumerate(text.split("\n"), 1):
            try:
                if line.strip():
                    found.append((f"line {i}", json.loads(line)))
            except json.JSONDecodeError as error:
                wrong.append(f"line {i}: not JSON ({error})")
    for where, entry in found:
        if isinstance(entry, dict):
            entries.append((where, entry))
        else:
            wrong.append(f"{where}: give an object with video and captions")
    return entries, wrong


def _csv_entries(text: str) -> tuple[list[tuple[str, dict]], list[str]]:
    """Returns (where, entry) with the rows of one clip joined, and what could not be read."""
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    joined, wrong = {}, []
    try:
        if missing := {"video", "caption"} - set(rows.fieldnames or []):
            return [], [f"its first line lacks the column {' and '.join(sorted(missing))}"]
        for row in rows:
            where = f"line {rows.line_num}"
            entry = {key: row[key] for key in ("video", "id", "split") if row.get(key)}
            try:
                entry |= {key: float(row[key]) for key in ("start", "end") if row.get(key)}
            except ValueError as error:
                wrong.append(f"{where}: {error}")
                continue
            _, first = joined.setdefault(tuple(entry.items()), (where, entry | {"captions": []}))
            first["captions"].append(row["caption"] or "")
    except csv.Error as error:
        wrong.append(f"line {rows.line_num}: {error}")
    return list(joined.values()), wrong


def _entry_problems(entry: dict) -> list[str]:
    found = []
    if not isinstance(entry.get("video"), str) or not entry["video"]:
        found.append("video: give a path")
    captions = entry.get("captions")
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        found.append("captions: give a list of texts")
    for key in ("id", "split"):
        if not isinstance(entry.get(key, ""), str):
            found.append(f"{key}: give a text, not {entry[key]!r}")
    for key in ("start", "end"):
        value = entry.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value)):
            found.append(f"{key}: give seconds, not {value!r}")
    return found


def _clip(entry: dict, root: Path | RemotePath) -> Clip:
    name = entry["video"]
    return Clip(
        entry.get("id", ""),
        remote.place(name) if remote.is_remote(name) else root / name,
        entry["captions"],
        entry.get("start"),
        entry.get("end"),
        entry.get("split", "train"),
    )


def _name(clips: list[Clip], root: Path | RemotePath) -> list[Clip]:
    """Gives clips without id one of their own: path without suffix, or with it, or with window."""

    def names(clip: Clip) -> list[str]:
        path = _inside(clip.path, root)
        window = f"{path.as_posix()}_{clip.start or 0:g}_{clip.end or 0:g}"
        return [path.with_suffix("").as_posix(), path.as_posix(), window]

    taken = [collections.Counter(clip.video_id for clip in clips)]
    taken += [collections.Counter(column) for column in zip(*map(names, clips), strict=True)]
    named = []
    for clip in clips:
        free = [
            name
            for name, others in zip(names(clip), taken[1:], strict=True)
            if others[name] == 1 and not taken[0][name]
        ]
        named.append(clip if clip.video_id else clip._replace(video_id=(free or names(clip))[0]))
    return named


def _inside(path: Path | RemotePath, root: Path | RemotePath) -> PurePath:
    """Returns the path from the root; of a file that lies elsewhere, from its disk or bucket."""
    if isinstance(path, Path):
        inside = isinstance(root, Path) and path.is_relative_to(root)
        return path.relative_to(root) if inside else Path(*path.parts[1:])
    inside = str(path).startswith(f"{root}/")
    return PurePosixPath(str(path)[len(f"{root}/") :] if inside else str(path).split("://")[1])
