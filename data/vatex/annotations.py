"""The annotations of VATEX: lists of ids, and captions as released or joined by CLIP2Video.

The captions are in the files of the release, each a list of {videoID, enCap, chCap}, or in
`vatex_data.json`, which has them by id; README.md in this folder says where they come from.
"""

from pathlib import Path

from xclip_jax.data import annotation_files, captions
from xclip_jax.data.benchmark import Benchmark

OFFICIAL = {
    "train": (25_991, 259_910),
    "val": (1500, 15_000),
    "test": (1500, 15_000),
    "test_random": (1500, 15_000),
}
LISTS = {
    "train_list.txt": "train",
    "val_list.txt": "val",
    "test_list.txt": "test",  # HGR's, on which results are published
    "test1k5_sec_list.txt": "test_random",  # "the paper's random split" of CLIP2Video
}
NEEDED = ("train", "test")
DOWNLOAD = (
    "put train_list.txt, val_list.txt, test_list.txt and test1k5_sec_list.txt (CLIP2Video's"
    " data/vatex_data) there, and the release's vatex_training_v1.0.json and"
    " vatex_validation_v1.0.json, or vatex_data.json"
)


def read(folder: Path) -> Benchmark:
    """Returns VATEX, English captions only, from the annotation files in a folder."""
    lists, sources, wrong = {}, [], []
    for name, source in annotation_files.listing(folder).items():
        try:
            if name in LISTS:
                lists[LISTS[name]] = name, captions.read_ids(source, name)
            elif Path(name).suffix.lower() in (".json", ".jsonl"):
                value = captions.read_json(source)
                if captions.are_entries(value):
                    sources.append((name, captions.gather(value, name)))
                elif isinstance(value, dict) and _has_english(value):
                    sources.append((name, captions.by_id(value, name)))
        except ValueError as error:
            wrong.append(str(error))
    missing = [name for name, split in LISTS.items() if split in NEEDED and split not in lists]
    missing += [] if sources else ["file of captions"]
    texts = {}
    try:
        texts = captions.merge(sources)
    except ValueError as error:
        wrong.append(str(error))
    splits, lacking = captions.select({s: lists[s] for s in OFFICIAL if s in lists}, texts)
    captions.complain(folder, missing, wrong + (lacking if texts else []), DOWNLOAD)
    notes = [
        f"no {split}: {name} is missing" for name, split in LISTS.items() if split not in lists
    ]
    apart = [("train", "val"), ("train", "test"), ("val", "test"), ("train", "test_random")]
    notes += captions.shared_ids(splits, [*apart, ("val", "test_random")])
    return Benchmark("vatex", splits, {s: OFFICIAL[s] for s in splits}, {}, tuple(notes))


def _has_english(value: dict) -> bool:
    return any(isinstance(entry, dict) and "enCap" in entry for entry in value.values())
