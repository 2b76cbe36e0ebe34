"""The annotations of ActivityNet Captions: a paragraph for each video, a window that is all of it.

train.json is train and val_1.json test, as in the published protocol; val_2.json, the second
paragraphs of the same videos, becomes test_2 where it is there.
"""

import math
from pathlib import Path

from xclip_jax.data import annotation_files
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.clips import several

FILES = {"train": "train.json", "test": "val_1.json", "test_2": "val_2.json"}
LISTS = {"train": "train_ids.json", "test": "val_ids.json"}
OFFICIAL = {"train": (10_009, 10_009), "test": (4_917, 4_917)}


def read(folder: str | Path) -> Benchmark:
    """Returns ActivityNet's splits from the folder of its annotation files.

    The files of captions say which videos a split has; the lists of ids, where they are there,
    only give their order.
    """
    files = annotation_files.listing(folder)
    if missing := [FILES[split] for split in OFFICIAL if FILES[split] not in files]:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}: put captions.zip of"
            " https://cs.stanford.edu/people/ranjaykrishna/densevid/captions.zip there."
        )
    splits, windows, wrong, notes = {}, {}, [], []
    for split, name in FILES.items():
        if name in files:
            entries, found = _entries(annotation_files.read_json(files[name]), name)
            wrong += found
            if (listed := LISTS.get(split)) in files:
                ids, found = _ids(annotation_files.read_json(files[listed]), listed)
                wrong += found
                entries, said = _in_order(entries, ids, name, listed)
                notes += said
            splits[split] = {video_id: [text] for video_id, (text, _) in entries.items()}
            for video_id, (_, seconds) in entries.items():
                known = windows.setdefault(video_id, seconds)
                if known != seconds:
                    notes.append(f"{name} {video_id}: {known[1]:g} s count, not {seconds[1]:g} s")
    if wrong:
        raise ValueError(f"{folder} cannot be used: {several(wrong)}.")
    return Benchmark("activitynet", splits, OFFICIAL, windows, tuple(notes))


def window(duration: float) -> tuple[float, float]:
    """Returns the whole seconds that a video is used for, one at least."""
    return 0.0, float(max(math.ceil(duration), 1))


def _entries(data, name: str) -> tuple[dict[str, tuple[str, tuple]], list[str]]:
    """Returns video id -> (paragraph, window) of a file of captions, and what is wrong with it."""
    if not isinstance(data, dict) or not data:
        return {}, [f"{name}: expected an object of videos, with duration and sentences each"]
    entries, wrong = {}, []
    for given, entry in data.items():
        video_id, found = _full(given), []
        entry = entry if isinstance(entry, dict) else {}
        sentences, duration = entry.get("sentences"), entry.get("duration")
        if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
            found.append("sentences: give a list of texts")
        elif not "".join(sentences).strip():
            found.append("its sentences are empty")
        number = isinstance(duration, int | float) and not isinstance(duration, bool)
        if not number or not 0 <= duration < math.inf:
            found.append(f"duration: give seconds, not {duration!r}")
        if video_id in entries:
            found.append("it is there twice, with and without v_")
        if found:
            wrong.append(f"{name} {given!r}: {', '.join(found)}")
        else:
            # Joined as the references do: many sentences begin with a blank of their own, and the
            # tokeniser makes one of several.
            entries[video_id] = " ".join(sentences), window(duration)
    return entries, wrong


def _ids(data, name: str) -> tuple[list[str], list[str]]:
    """Returns the ids of a list, and what is wrong with it."""
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        return [], [f"{name}: expected a list of ids"]
    ids = [_full(item) for item in data]
    twice = len(ids) - len(set(ids))
    return ids, [f"{name}: {twice} ids are there twice"] if twice else []


def _in_order(entries: dict, ids: list[str], name: str, listed: str) -> tuple[dict, list[str]]:
    """Returns the entries in the order of a list, those it lacks last, and how the two differ."""
    notes, known = [], set(ids)
    if lacking := [video_id for video_id in ids if video_id not in entries]:
        notes.append(
            f"{listed}: {len(lacking)} ids have no captions in {name}, left out: {several(lacking)}"
        )
    if unlisted := [video_id for video_id in entries if video_id not in known]:
        notes.append(f"{name}: {len(unlisted)} not in {listed}, used: {several(unlisted)}")
    order = [video_id for video_id in ids if video_id in entries] + unlisted
    return {video_id: entries[video_id] for video_id in order}, notes


def _full(video_id: str) -> str:
    """Returns an id with its `v_`, which lists sometimes leave out.

    The rest of an id has 11 characters and may begin with `v_` itself.
    """
    is_bare = not video_id.startswith("v_") or len(video_id) == 11
    return f"v_{video_id}" if is_bare else video_id
