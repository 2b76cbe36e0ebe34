"""The annotations of DiDeMo: all descriptions of a video joined to one text.

The lists say which videos a split has. The texts come from {train,val,test}_data.json; where the
official train_data.json cannot be had, from the files of other projects that stand in for it.
"""

import csv
import io
from pathlib import Path

from xclip_jax.data import annotation_files, captions
from xclip_jax.data.annotation_files import Source
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.clips import several

OFFICIAL = {"train": (8_392, 8_392), "val": (1_065, 1_065), "test": (1_004, 1_004)}
# The references use this much of each video; all that is annotated lies in its 30 seconds.
WINDOW = (0.0, 31.0)
IDS = ("video", "video_id", "clip_id", "video_path")
TEXTS = ("description", "caption", "text")
# Of the files of captions, from the official order of the descriptions to others.
SUFFIXES = (".json", ".csv", ".jsonl", ".tsv")


def read(folder: str | Path) -> Benchmark:
    """Returns DiDeMo's three splits from the folder of its annotation files."""
    files = annotation_files.listing(folder)
    if missing := [f"{split}_list.txt" for split in OFFICIAL if f"{split}_list.txt" not in files]:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}: put the three lists and the three *_data.json of"
            " https://github.com/LisaAnne/LocalizingMoments there, see data/didemo/README.md."
        )
    sources, wrong = _paragraphs(files)
    splits, official, notes = {}, {}, []
    for split in OFFICIAL:
        listed, found = _listed(files[f"{split}_list.txt"])
        data = f"{split}_data.json"
        # The split's own file first, then by suffix, so that others only fill gaps.
        order = sorted(
            sources, key=lambda name: (name != data, SUFFIXES.index(_suffix(name)), name)
        )
        splits[split], used = _take(listed, {name: sources[name] for name in order})
        wrong += found + ([] if used or found else [f"no captions of {split}: get {data}"])
        notes += _notes(split, listed, splits[split], used, sources)
        if set(used) == {data}:
            official[split] = OFFICIAL[split]
    if wrong:
        raise ValueError(f"{folder} cannot be used: {several(wrong)}.")
    windows = {video_id: WINDOW for members in splits.values() for video_id in members}
    return Benchmark("didemo", splits, official, windows, tuple(notes))


def stem(name: str) -> str:
    """Returns what all forms of an id share: `1@N_2_c0` of `1@N_2_c0.mov`, `.mov.mp4` or `.`."""
    return name.rpartition("/")[2].strip().partition(".")[0]


def _listed(source: Source) -> tuple[dict[str, str], list[str]]:
    """Returns stem -> id of a list, and what is wrong with it."""
    try:
        ids = captions.read_ids(source, source.path.name)
    except ValueError as error:
        return {}, [str(error).removesuffix(".")]
    listed = {stem(video_id): video_id for video_id in ids}
    twice = [video_id for video_id in ids if listed[stem(video_id)] != video_id]
    return listed, [f"{source}: {several(twice)} there twice"] if twice else []


def _paragraphs(files: dict[str, Source]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Returns file -> stem -> text of all files that hold captions, and what is wrong with them."""
    sources, wrong = {}, []
    for name, source in files.items():
        try:
            rows = _rows(source, name) if _suffix(name) in SUFFIXES else None
        except ValueError as error:
            wrong.append(str(error).removesuffix("."))
            continue
        is_data = name.endswith("_data.json")
        if rows and isinstance(rows, list) and (is_data or _has_both(rows[0])):
            sources[name], found = _join(rows, name)
            wrong += found
        elif is_data:
            wrong.append(f"{name}: expected a list of objects with video and description")
    return sources, wrong


def _rows(source: Source, name: str):
    """Returns the entries of a JSON, JSON-lines, CSV or headless TSV file; None of another one."""
    if _suffix(name) == ".csv":
        return captions.read_rows(source)
    if _suffix(name) == ".tsv":  # text and video, as Region Learner has it, commas in between
        lines = io.StringIO(annotation_files.read_text(source), newline="")
        table = csv.reader(lines, delimiter="\t")
        try:
            rows = [row for row in table if len(row) == 2]
        except csv.Error as error:
            raise ValueError(f"{source} is no table, line {table.line_num}: {error}.") from None
        return [{"video": video, "text": text.rstrip(", ")} for text, video in rows]
    return captions.read_json(source)


def _has_both(row) -> bool:
    return isinstance(row, dict) and all(any(key in row for key in keys) for keys in (IDS, TEXTS))


def _join(rows: list, name: str) -> tuple[dict[str, str], list[str]]:
    """Returns video -> all its texts joined by a blank, in order, and what is wrong with them."""
    texts, wrong = {}, []
    for i, row in enumerate(rows, 1):
        row = row if isinstance(row, dict) else {}
        video = next((row[key] for key in IDS if key in row), None)
        text = next((row[key] for key in TEXTS if key in row), None)
        parts = text if isinstance(text, list) else [text]
        if not isinstance(video, str) or not stem(video):
            wrong.append(f"{name} entry {i}: no video")
        elif not parts or not all(isinstance(part, str) and part.strip() for part in parts):
            wrong.append(f"{name} entry {i}, {video}: no description, or an empty one")
        else:
            texts.setdefault(video.rpartition("/")[2].strip(), []).extend(parts)
    return {video: " ".join(parts) for video, parts in texts.items()}, wrong


def _take(
    listed: dict[str, str], sources: dict[str, dict[str, str]]
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Returns id -> [text] in the order of the sources, and how many texts came from which.

    Some videos were annotated under two suffixes, of which the list has one: only what is said of
    that one counts, as in the references. Other forms of an id are for files that lack it.
    """
    members, used = {}, {}
    for name, texts in sources.items():
        for video, text in texts.items():
            video_id = listed.get(stem(video))
            exact = video == video_id or video_id not in texts
            if video_id and exact and video_id not in members:
                members[video_id] = [text]
                used[name] = used.get(name, 0) + 1
    return members, used


def _notes(split: str, listed: dict, members: dict, used: dict, sources: dict) -> list[str]:
    notes, data = [], f"{split}_data.json"
    if set(used) - {data}:
        counts = ", ".join(f"{name} {n}" for name, n in used.items())
        notes.append(
            f"{split}: texts not from {data} alone, so not called official; descriptions may be in"
            f" another order ({counts})"
        )
    if lacking := [video_id for video_id in listed.values() if video_id not in members]:
        notes.append(f"{split}: {len(lacking)} listed without captions: {captions.some(lacking)}")
    names = sources.get(data, {})
    twins = {video for video in names if listed.get(stem(video)) in names} - set(listed.values())
    if twins:
        notes.append(
            f"{data}: {len(twins)} videos are there under a second suffix; what is said there is"
            " left out, as in the references"
        )
    if rest := [video for video in names if stem(video) not in listed]:
        notes.append(f"{data}: {len(rest)} videos are not in {split}_list.txt and left out")
    return notes


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()
