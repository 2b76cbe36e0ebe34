"""From lists of ids and entries with captions, in the shapes annotation files have, to id -> texts.

`data/annotation_files.py` opens the files; what they hold is checked here, and nothing is left out
or mended unsaid.
"""

import collections
import csv
import io
from pathlib import Path
from typing import Any

from xclip_jax.data import annotation_files
from xclip_jax.data.annotation_files import Source
from xclip_jax.data.clips import several

IDS = ("video_id", "videoID", "image_id", "video")
CAPTIONS = ("caption", "captions", "enCap", "sentence")


def read_json(source: Source) -> Any:
    """Returns what a JSON file holds; of JSON lines, the list of their values."""
    content = annotation_files.read_text(source)
    lines = [line for line in content.split("\n") if line.strip()]
    try:
        return annotation_files.parse_json(content, str(source))
    except ValueError:
        if len(lines) < 2 or not all(line.strip()[0] + line.strip()[-1] == "{}" for line in lines):
            raise
    return [
        annotation_files.parse_json(line, f"{source}, object {i}")
        for i, line in enumerate(lines, 1)
    ]


def read_rows(source: Source) -> list[dict[str, str]]:
    """Returns the rows of a .csv by the names in its first line."""
    content = annotation_files.read_text(source)
    reader = csv.DictReader(io.StringIO(content, newline=""), skipinitialspace=True)
    try:
        return list(reader)
    except csv.Error as error:
        raise ValueError(f"{source} is no table, line {reader.line_num}: {error}.") from None


def read_ids(source: Source, name: str) -> list[str]:
    """Returns the ids of a list: one a line, or of a .csv its column video_id."""
    if name.lower().endswith(".csv"):
        rows = read_rows(source)
        if not rows or "video_id" not in rows[0]:
            raise ValueError(f"{source} lacks the column video_id, or has no rows.")
        found = [row["video_id"] or "" for row in rows]
    else:
        found = annotation_files.read_text(source).splitlines()
    found = [line.strip() for line in found if line.strip()]
    if not found:
        raise ValueError(f"{source} has no ids.")
    if twice := [video_id for video_id, n in collections.Counter(found).items() if n > 1]:
        raise ValueError(f"{source} has {some(twice)} more than once: keep each once.")
    return found


def are_entries(value: Any) -> bool:
    """Tells whether a value is a list that `gather` is meant for, and not of questions or ids."""
    return isinstance(value, list) and any(
        isinstance(entry, dict)
        and not entry.keys().isdisjoint(IDS)
        and not entry.keys().isdisjoint(CAPTIONS)
        for entry in value
    )


def gather(entries: list, where: object) -> dict[str, list[str]]:
    """Returns id -> captions, in order, of a list of objects with an id and a caption or more."""
    captions, wrong = {}, []
    id_key = text_key = None
    for i, entry in enumerate(entries, 1):
        entry = entry if isinstance(entry, dict) else {}
        if id_key not in entry:
            id_key = next((key for key in IDS if key in entry), None)
        if text_key not in entry:
            text_key = next((key for key in CAPTIONS if key in entry), None)
        video_id, texts = entry.get(id_key), entry.get(text_key)
        several_texts = not isinstance(texts, str)
        texts = texts if several_texts else [texts]
        if not isinstance(video_id, str) or not video_id.strip():
            wrong.append(f"entry {i} has no video_id")
        elif several_texts and video_id in captions:  # one text a row is another form
            wrong.append(f"entry {i}, {video_id}: it has another entry")
        elif not _are_texts(texts):
            wrong.append(f"entry {i}, {video_id}: no caption, or an empty one")
        else:
            video_id = Path(video_id).stem if id_key == "video" else video_id.strip()
            captions.setdefault(video_id, []).extend(texts)
    if wrong:
        raise ValueError(f"{where}: {several(wrong)}.")
    return captions


def by_id(value: dict, where: object) -> dict[str, list[str]]:
    """Returns {id: [captions]} or {id: {"enCap": [captions]}} as the former."""
    captions, wrong = {}, []
    for video_id, texts in value.items():
        if isinstance(texts, dict):
            texts = next((texts[key] for key in CAPTIONS if key in texts), None)
        if _are_texts(texts):
            captions[video_id] = texts
        else:
            wrong.append(f"{video_id}: no caption, or an empty one")
    if wrong:
        raise ValueError(f"{where}: {several(wrong)}.")
    return captions


def _are_texts(texts: Any) -> bool:
    if not isinstance(texts, list) or not texts:
        return False
    return all([isinstance(text, str) and text.strip() for text in texts])


def merge(sources: list[tuple[object, dict[str, list[str]]]]) -> dict[str, list[str]]:
    """Returns the captions of several files as one; they must agree where they overlap."""
    merged, origin = {}, {}
    for where, captions in sources:
        both = merged.keys() & captions.keys()
        if different := sorted(v for v in both if merged[v] != captions[v]):
            first = origin[different[0]]
            raise ValueError(
                f"{first} and {where} give other captions of {some(different)}: keep one of them."
            )
        for video_id, texts in captions.items():
            merged.setdefault(video_id, texts)
            origin.setdefault(video_id, where)
    return merged


def select(
    lists: dict[str, tuple[object, list[str]]], captions: dict[str, list[str]]
) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Returns the captions of each list's ids, in its order, and which lists lack some."""
    splits, wrong = {}, []
    for split, (where, ids) in lists.items():
        splits[split] = {video_id: captions[video_id] for video_id in ids if video_id in captions}
        if lacking := [video_id for video_id in ids if video_id not in captions]:
            wrong.append(
                f"{where}: {len(lacking)} of its {len(ids)} ids have no captions: {some(lacking)}"
            )
    return splits, wrong


def shared_ids(splits: dict[str, dict], pairs: list[tuple[str, str]]) -> list[str]:
    """Returns a note on each pair of splits that share videos."""
    notes = []
    for train, test in pairs:
        if both := sorted(splits.get(train, {}).keys() & splits.get(test, {}).keys()):
            notes.append(f"{train} and {test} share {len(both)} videos: {some(both)}")
    return notes


def complain(folder: object, missing: list[str], wrong: list[str], download: str) -> None:
    """Raises one error with all that is missing and wrong; nothing happens where nothing is."""
    lacking = [f"there is no {', no '.join(missing)}: {download}"] if missing else []
    if missing or wrong:
        error = ValueError if wrong else FileNotFoundError
        lines = [str(line).rstrip(".") for line in wrong] + lacking
        raise error(f"The annotations in {folder} cannot be used: {several(lines)}.")


def some(ids: list[str]) -> str:
    """Returns the first ids, three at most, and how many there are besides."""
    rest = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return ", ".join(ids[:3]) + rest
