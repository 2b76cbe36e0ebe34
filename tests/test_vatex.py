"""VATEX's annotations: the lists as published, both forms of the captions, both test splits."""

import json

import pytest
import tensorflow_datasets as tfds

from xclip_jax.data.benchmark import count
from xclip_jax.data.vatex import annotations, vatex_dataset_builder


class VatexTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's checks of a builder: it builds the dummy data and reads them back."""

    DATASET_CLASS = vatex_dataset_builder.Builder
    EXAMPLE_DIR = vatex_dataset_builder.Builder.pkg_dir_path / "dummy_data"
    SPLITS = {"videos": 3}  # noqa: RUF012 (TFDS's own form)


TEXTS = {
    "Ab_cdEFgh-1_000004_000014": ["A man sharpens a saw.", "Someone files metal."],
    "-_ijKLmnop2_000100_000110": ["A kettle boils."],
    "qrSTuvWX_y3_000000_000010": ["A child stacks cups.", "Cups fall.", "A tower of cups."],
    "zzzzzzzzzz4_000031_000041": ["A rope is tied."],
}
FIRST, SECOND, THIRD, FOURTH = TEXTS
LISTS = {
    "train_list.txt": [SECOND, FIRST],
    "val_list.txt": [THIRD],
    "test_list.txt": [FOURTH],
    "test1k5_sec_list.txt": [FOURTH, THIRD],
}


def lay(folder, **files):
    for name, ids in LISTS.items():
        (folder / name).write_text("".join(f"{video_id}\n" for video_id in ids), "utf-8")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), "utf-8")
    return folder


def entries(*ids):
    return [{"videoID": v, "enCap": TEXTS[v], "chCap": ["一个人"]} for v in ids]


FORMS = {
    "by id": {"vatex_data": {v: {"chCap": ["水"], "enCap": TEXTS[v]} for v in TEXTS}},
    "plain by id": {"vatex_data": {v: {"enCap": TEXTS[v]} for v in TEXTS}},
    "released": {
        "vatex_training_v1.0": entries(FIRST, SECOND),
        "vatex_validation_v1.0": entries(THIRD, FOURTH),
    },
    "with the public test": {
        "vatex_training_v1.0": entries(FIRST, SECOND),
        "vatex_validation_v1.0": entries(THIRD, FOURTH),
        "vatex_public_test_english_v1.1": [{"videoID": "other", "enCap": ["x"]}],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_captions_gives_the_same_english_ones(form, tmp_path):
    lay(tmp_path, **FORMS[form])

    read = annotations.read(tmp_path)

    names = {"train": "train_list.txt", "val": "val_list.txt", "test": "test_list.txt"}
    for split, name in (names | {"test_random": "test1k5_sec_list.txt"}).items():
        assert list(read.splits[split].items()) == [(v, TEXTS[v]) for v in LISTS[name]]
    assert read.name == "vatex" and set(read.official) == set(read.splits)
    assert read.notes == (f"val and test_random share 1 videos: {THIRD}",)


def test_only_the_lists_of_train_and_test_must_be_there(tmp_path):
    lay(tmp_path, **FORMS["by id"])
    (tmp_path / "val_list.txt").unlink()
    (tmp_path / "test1k5_sec_list.txt").unlink()

    read = annotations.read(tmp_path)

    assert list(read.splits) == ["train", "test"]
    assert read.notes == (
        "no val: val_list.txt is missing",
        "no test_random: test1k5_sec_list.txt is missing",
    )


def test_the_captions_of_one_part_alone_say_which_lists_they_do_not_cover(tmp_path):
    lay(tmp_path, vatex_training=entries(FIRST, SECOND))

    with pytest.raises(ValueError) as caught:
        annotations.read(tmp_path)

    message = str(caught.value)
    assert f"val_list.txt: 1 of its 1 ids have no captions: {THIRD}" in message
    assert f"test1k5_sec_list.txt: 2 of its 2 ids have no captions: {FOURTH}, {THIRD}" in message


def test_missing_files_are_named_with_what_to_download(tmp_path):
    lay(tmp_path, videos={"a": {"fps": 3}})
    (tmp_path / "train_list.txt").unlink()

    with pytest.raises(
        FileNotFoundError,
        match=r"no train_list\.txt, no file of captions: put .*vatex_training_v1\.0\.json",
    ):
        annotations.read(tmp_path)


def test_all_problems_come_in_one_line(tmp_path):
    lay(tmp_path, vatex_data={FIRST: {"enCap": [""]}, SECOND: {"enCap": "text"}, THIRD: {}})
    (tmp_path / "train_list.txt").write_text(f"{FIRST}\n{SECOND}\n{FIRST}\n")
    (tmp_path / "val_list.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "more.json").write_text("{")

    with pytest.raises(ValueError) as caught:
        annotations.read(tmp_path)

    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"vatex_data.json: {FIRST}: no caption, or an empty one; {SECOND}: no caption",
        f"{THIRD}: no caption",
        f"train_list.txt has {FIRST} more than once",
        "val_list.txt is not text in UTF-8",
        "more.json is not JSON",
    ):
        assert part in message


@pytest.fixture(scope="module")
def official(shared, tmp_path_factory):
    """The published lists, with made captions, since the real ones are not here."""
    source = shared / "data/annotations/vatex-lists"
    if not source.is_dir():
        pytest.skip("needs the lists of VATEX")
    folder = tmp_path_factory.mktemp("vatex")
    ids = {}
    for name in LISTS:
        (folder / name).symlink_to(source / name)
        ids |= dict.fromkeys((source / name).read_text().split())
    data = {v: {"enCap": [f"A made caption, number {i}." for i in range(10)]} for v in ids}
    (folder / "vatex_data.json").write_text(json.dumps(data))
    return annotations.read(folder)


def test_the_published_counts_are_met(official):
    assert {split: count(members) for split, members in official.splits.items()} == {
        "train": (25_991, 259_910),
        "val": (1500, 15_000),
        "test": (1500, 15_000),
        "test_random": (1500, 15_000),
    }
    assert all(
        count(official.splits[split]) == official.official[split] for split in official.splits
    )


def test_the_random_test_takes_from_the_other_test_and_from_val(official):
    ids = {split: set(members) for split, members in official.splits.items()}

    assert not ids["train"] & (ids["val"] | ids["test"] | ids["test_random"])
    assert not ids["val"] & ids["test"]
    assert len(ids["test_random"] & ids["test"]) == 724
    assert len(ids["test_random"] & ids["val"]) == 776
    assert [note for note in official.notes if "776 videos" in note]
