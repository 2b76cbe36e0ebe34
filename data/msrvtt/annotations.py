"""The annotations of MSR-VTT, in any of the forms in which they are passed on.

Captions come from MSRVTT_data.json, from the two original videodatainfo files, from Frozen's
MSR_VTT.json or from lists as Hugging Face's mirrors have them; splits from lists of ids and from
what the captions' files say. README.md in this folder names them all.
"""

import re
from pathlib import Path
from typing import NamedTuple

from xclip_jax.data import annotation_files, captions
from xclip_jax.data.annotation_files import Source
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.clips import several

OFFICIAL = {
    "train_9k": (9000, 180_000),
    "train_7k": (7010, 140_200),
    "train_full": (6513, 130_260),
    "val_full": (497, 9940),
    "test_full": (2990, 59_800),
    "test_1ka": (1000, 1000),
    "train_1kb": (6656, 133_120),
    "test_1kb": (1000, 1000),
}
APART = [
    *(("train_9k", "test_1ka"), ("train_7k", "test_1ka"), ("train_1kb", "test_1kb")),
    *(("train_full", "val_full"), ("train_full", "test_full"), ("val_full", "test_full")),
]
# Lists of ids are told by the words in their names: MSRVTT_train.9k.csv, train_list_miech.txt.
ROLES = {
    ("train", "9k"): "train_9k",
    ("train", "jsfusion"): "train_9k",
    ("train", "7k"): "train_7k",
    ("train", "full"): "train_full",
    ("val", "full"): "val_full",
    ("test", "full"): "test_full",
    ("train", "miech"): "train_1kb",
    ("test", "miech"): "test_1kb",
    ("test", "jsfusion"): "test_1ka",
    ("val", "jsfusion"): "test_1ka",
    ("test", "1k"): "test_1ka",
    ("test", "1ka"): "test_1ka",
}
FIELD = {"train": "train_full", "validate": "val_full", "val": "val_full", "test": "test_full"}
DOWNLOAD = (
    "put MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_train.7k.csv and MSRVTT_JSFUSION_test.csv"
    " there, or CLIP4Clip's msrvtt_data.zip as it is; data/msrvtt/README.md names other forms"
)


class Found(NamedTuple):
    """What the files of a folder say, before it is put together; `name` is a file's."""

    captions: list[tuple[str, dict]]  # (name, id -> captions)
    sentences: list[tuple[str, dict]]  # the same with one caption each: the 1k-A test
    lists: dict[str, tuple[str, list]]  # split -> (name, ids)
    fields: dict[str, str]  # id -> split, as the captions' files have it


def read(folder: Path) -> Benchmark:
    """Returns MSR-VTT from the annotation files in a folder, with all splits that they give."""
    found, wrong = Found([], [], {}, {}), []
    for name, source in annotation_files.listing(folder).items():
        try:
            _take(name, source, found)
        except ValueError as error:
            wrong.append(str(error))
    missing = [] if found.captions else ["file of captions"]
    captions.complain(folder, missing, wrong, DOWNLOAD)
    notes = []
    try:
        # The two original files in the order in which MSRVTT_data.json joins them.
        parts = sorted(found.captions, key=lambda part: _begins_with_test(part[1], found.fields))
        splits = _splits(captions.merge(parts), captions.merge(found.sentences), found, notes)
    except ValueError as error:
        captions.complain(folder, [], [error], DOWNLOAD)
    splits = {split: splits[split] for split in OFFICIAL if splits.get(split)}
    notes += captions.shared_ids(splits, APART)
    return Benchmark(
        "msrvtt", splits, {split: OFFICIAL[split] for split in splits}, {}, tuple(notes)
    )


def _take(name: str, source: Source, found: Found) -> None:
    """Adds what one file says; a file of another kind is passed over."""
    role, suffix = _role(name), Path(name).suffix.lower()
    if suffix in (".json", ".jsonl"):
        value = captions.read_json(source)
        if captions.are_entries(value):
            _take_list(name, captions.gather(value, name), role, found)
        for key in ("sentences", "annotations"):
            if isinstance(value, dict) and isinstance(value.get(key), list):
                found.captions.append((name, captions.gather(value[key], name)))
                _take_fields(value.get("videos"), found)
    elif suffix == ".csv":
        rows = captions.read_rows(source)
        if rows and "video_id" in rows[0] and any(key in rows[0] for key in captions.CAPTIONS):
            _take_list(name, captions.gather(rows, name), role, found)
        elif role == "test_1ka":
            raise ValueError(f"{name} lacks a column of video_id, sentence, or has no rows")
        elif role:
            _add_list(role, name, captions.read_ids(source, name), found)
    elif suffix == ".txt" and role:
        _add_list(role, name, captions.read_ids(source, name), found)


def _take_fields(videos: object, found: Found) -> None:
    for video in videos if isinstance(videos, list) else []:
        if isinstance(video, dict) and video.get("split") in FIELD:
            found.fields[str(video.get("video_id"))] = FIELD[video["split"]]


def _take_list(name: str, entries: dict, role: str | None, found: Found) -> None:
    """Adds a list with captions: one caption a video is the 1k-A test, more are the captions."""
    if role in (None, "test_1ka") and all(len(texts) == 1 for texts in entries.values()):
        found.sentences.append((name, entries))
        return
    if role == "test_1ka" and any(len(texts) == 1 for texts in entries.values()):
        twice = [video_id for video_id, texts in entries.items() if len(texts) > 1]
        raise ValueError(f"{name} has {captions.some(twice)} more than once: keep each once")
    found.captions.append((name, entries))
    if role:
        _add_list(role, name, list(entries), found)


def _add_list(role: str, name: str, ids: list[str], found: Found) -> None:
    other, known = found.lists.setdefault(role, (name, ids))
    if different := sorted(set(known) ^ set(ids)):
        raise ValueError(f"{other} and {name} differ in {captions.some(different)}: keep one")


def _role(name: str) -> str | None:
    words = set(re.split("[^a-z0-9]+", name.lower()))
    return next((role for key, role in ROLES.items() if words.issuperset(key)), None)


def _begins_with_test(part: dict, fields: dict[str, str]) -> bool:
    return released_split(next(iter(part), ""), fields) == "test_full"


def released_split(video_id: str, fields: dict[str, str]) -> str:
    """Returns the split of the first release: as the files say, or else by the video's number."""
    number = re.fullmatch(r"video(\d{1,6})", video_id)
    if video_id in fields or not number:
        return fields.get(video_id, "")
    if int(number[1]) < 6513:
        return "train_full"
    return "val_full" if int(number[1]) < 7010 else "test_full"


def _splits(
    pool: dict[str, list[str]], sentences: dict[str, list[str]], found: Found, notes: list[str]
) -> dict[str, dict[str, list[str]]]:
    """Returns the splits that lists give and those that follow from the rest; adds notes.

    Raises ValueError for lists that the captions do not cover.
    """
    wrong = []
    lists = dict(found.lists)
    name, ids = lists.pop("test_1ka", ("", list(sentences)))
    if not sentences:
        notes.append(
            "no 1k-A test: its sentences are in MSRVTT_JSFUSION_test.csv, which is missing"
        )
    elif different := sorted(set(ids) ^ set(sentences)):
        wrong.append(f"{name} and {found.sentences[0][0]} differ in {captions.some(different)}")
    _, lacking = captions.select(lists, pool)
    if wrong + lacking:
        raise ValueError(several(wrong + lacking))

    members = {split: set(ids) for split, (_, ids) in lists.items()}
    released = {split: set() for split in ("train_full", "val_full", "test_full")}
    for video_id in pool:
        released.setdefault(released_split(video_id, found.fields), set()).add(video_id)
    if not pool.keys() >= sentences.keys():
        # Captions of the 9,000 only, of which 1,990 are of the released test split.
        released.pop("test_full")
        notes.append("no test_full: the captions of the 1k-A test's videos are missing")
    elif sentences:
        members.setdefault("train_9k", pool.keys() - sentences.keys())
    released.pop("", None)
    members = released | members
    if members["train_full"] and members["val_full"]:
        members.setdefault("train_7k", members["train_full"] | members["val_full"])
    # Everything in the order of the captions' file, as the references train and evaluate.
    splits = {
        split: {video_id: texts for video_id, texts in pool.items() if video_id in ids}
        for split, ids in members.items()
    }
    if "test_1kb" in splits:  # the first caption of each, as those who made this split use it
        splits["test_1kb"] = {v: texts[:1] for v, texts in splits["test_1kb"].items()}
    return splits | {"test_1ka": sentences}
