"""The annotations of LSMDC 2016: three tables of six columns, in UTF-8 or Latin-1."""

from pathlib import Path

from xclip_jax.data import annotation_files
from xclip_jax.data.benchmark import Benchmark, count
from xclip_jax.data.clips import several

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",  # so spelled by those who made it
}
LINES = {"train": 101_079, "val": 7_408, "test": 1_000}
FIELDS = ("clip id", "start", "end", "extracted start", "extracted end", "sentence")


def read(folder: str | Path) -> Benchmark:
    """Returns LSMDC's three splits from the folder of its annotation files."""
    files = annotation_files.listing(folder)
    if missing := [name for name in FILES.values() if name not in files]:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}: ask for LSMDC at"
            " https://sites.google.com/site/describingmovies/download, see data/lsmdc/README.md."
        )
    splits, wrong, notes = {}, [], []
    for split, name in FILES.items():
        text, is_latin_1 = annotation_files.read_text_or_latin_1(files[name])
        splits[split], found = _rows(text, name)
        wrong += found
        if is_latin_1:
            notes.append(f"{name} is not UTF-8: read as Latin-1")
        videos, lines = count(splits[split])
        if lines > videos:
            notes.append(
                f"{name}: {lines} lines for {videos} clips; the sentences of a clip are kept"
                " together"
            )
    if wrong:
        raise ValueError(f"{folder} cannot be used: {several(wrong)}.")
    # The protocol counts lines; how many clips they describe, only the files themselves say.
    official = {split: (len(splits[split]), lines) for split, lines in LINES.items()}
    return Benchmark("lsmdc", splits, official, {}, tuple(notes))


def _rows(text: str, name: str) -> tuple[dict[str, list[str]], list[str]]:
    """Returns clip id -> sentences of one table, and what is wrong with its lines."""
    captions, wrong = {}, []
    lines = text.split("\n")  # a sentence may hold other separators of lines
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        wrong.append(f"{name} has no lines")
    for i, line in enumerate(lines, 1):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != len(FIELDS):
            wrong.append(
                f"{name} line {i}: {len(fields)} fields, expected {len(FIELDS)} with a TAB between"
                f" two ({', '.join(FIELDS)})"
            )
        elif not fields[0] or not fields[-1]:
            wrong.append(f"{name} line {i}: its {FIELDS[0 if not fields[0] else -1]} is empty")
        else:
            captions.setdefault(fields[0], []).append(fields[-1])
    return captions, wrong
