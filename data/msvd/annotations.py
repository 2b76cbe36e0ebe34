"""The annotations of MSVD: three lists of ids, and captions in any of the forms passed on.

These are `raw-captions.pkl`, JSON, or the original AllVideoDescriptions.txt; README.md in this
folder says where each comes from.
"""

import re
from pathlib import Path

from xclip_jax.data import annotation_files, captions
from xclip_jax.data.annotation_files import Source
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.clips import several
from xclip_jax.data.msvd import caption_pickle

OFFICIAL = {"train": (1200, 48_774), "val": (100, 4290), "test": (670, 27_763)}
LISTS = {f"{split}_list.txt": split for split in OFFICIAL}
# The words of one caption may differ between these (case, full stops): the references' comes first.
FORMS = ("pickle", "JSON", "text")
DOWNLOAD = (
    "put train_list.txt, val_list.txt, test_list.txt and raw-captions.pkl there, or CLIP4Clip's"
    " msvd_data.zip as it is; data/msvd/README.md names other forms of the captions"
)


def read(folder: Path) -> Benchmark:
    """Returns MSVD from the annotation files in a folder."""
    lists, forms, wrong, refused = {}, {form: [] for form in FORMS}, [], []
    for name, source in annotation_files.listing(folder).items():
        suffix = Path(name).suffix.lower()
        try:
            if name in LISTS:
                lists[LISTS[name]] = name, captions.read_ids(source, name)
            elif suffix in (".pkl", ".pickle"):
                _add(forms["pickle"], name, _from_pickle(name, source, refused))
            elif suffix in (".json", ".jsonl"):
                _add(forms["JSON"], name, _from_json(name, source))
            elif suffix == ".txt":
                _add(forms["text"], name, _from_text(name, source))
        except ValueError as error:
            wrong.append(str(error))
    given = [form for form in FORMS if forms[form]]
    missing = [name for name, split in LISTS.items() if split not in lists]
    if not given:
        missing.append("file of captions")
        wrong += refused
    texts = {}
    try:
        texts = captions.merge(forms[given[0]] if given else [])
    except ValueError as error:
        wrong.append(str(error))
    splits, lacking = captions.select({s: lists[s] for s in OFFICIAL if s in lists}, texts)
    captions.complain(folder, missing, wrong + (lacking if texts else []), DOWNLOAD)
    notes = list(refused)
    for form in given[1:]:
        names = f"{forms[form][0][0]} and {forms[given[0]][0][0]}"
        notes.append(f"captions in both {names}: those of the latter are used")
    if others := texts.keys() - set().union(*splits.values()):
        notes.append(f"{len(others)} videos with captions are in no list and left out")
    notes += captions.shared_ids(splits, [("train", "val"), ("train", "test"), ("val", "test")])
    return Benchmark("msvd", splits, OFFICIAL, {}, tuple(notes))


def _add(form: list, name: str, found: dict | None) -> None:
    if found:
        form.append((name, found))


def _from_pickle(name: str, source: Source, refused: list[str]) -> dict | None:
    """Returns a pickle's captions; one of features and the like is refused, which is noted."""
    try:
        found = caption_pickle.load(annotation_files.read_bytes(source), name)
    except ValueError as error:
        refused.append(str(error).rstrip("."))
        return None
    return captions.by_id(found, name)


def _from_json(name: str, source: Source) -> dict | None:
    """Returns the captions of {id: [captions]}, or of a list as Hugging Face's mirrors have it."""
    value = captions.read_json(source)
    if captions.are_entries(value):
        return captions.gather(value, name)
    if not isinstance(value, dict) or not all(isinstance(texts, list) for texts in value.values()):
        return None
    if any(isinstance(text, dict) for texts in value.values() for text in texts):
        return None
    return captions.by_id(value, name)


def _from_text(name: str, source: Source) -> dict | None:
    """Returns the captions of lines `ID_start_end caption`; None if the first is no such line."""
    found, wrong = {}, []
    for i, line in enumerate(annotation_files.read_text(source).split("\n"), 1):
        line = line.strip()
        match = re.fullmatch(r"(\S+_\d+_\d+)\s+(\S.*)", line)
        if match:
            found.setdefault(match[1], []).append(match[2])
        elif line and not line.startswith("#"):
            if not found:
                return None
            wrong.append(f"line {i}: no id and caption")
    if wrong:
        raise ValueError(f"{name}: {several(wrong)}")
    return found
