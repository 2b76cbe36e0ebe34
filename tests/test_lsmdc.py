"""LSMDC's three tables, in both encodings, with lines repeated or broken."""

import gzip

import pytest
import tensorflow_datasets as tfds

from xclip_jax.data.lsmdc import lsmdc_dataset_builder
from xclip_jax.data.lsmdc.annotations import FILES, read


class LsmdcTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's checks of a builder: it builds the dummy data and reads them back."""

    DATASET_CLASS = lsmdc_dataset_builder.Builder
    EXAMPLE_DIR = lsmdc_dataset_builder.Builder.pkg_dir_path / "dummy_data"
    SPLITS = {"videos": 3}  # noqa: RUF012 (TFDS's own form)


SIGNS = "1005_Signs_00.01.12.000-00.01.20.100"


def line(clip, sentence):
    return f"{clip}\t00:01:12\t00:01:20\t00:01:12\t00:01:20\t{sentence}\n"


def write(folder, train="", val="", test="", encoding="utf-8"):
    for name, text in zip(FILES.values(), (train, val, test), strict=True):
        (folder / name).write_bytes(text.encode(encoding))


def test_the_sentences_of_a_clip_are_kept_together_in_the_order_of_the_lines(tmp_path):
    write(
        tmp_path,
        train=line(SIGNS, "SOMEONE opens his eyes.") + line("b", "b.") + line(SIGNS, "He gets up."),
        val=line("c", "A café\u2028opens.").replace("\n", "\r\n") + "\n",
        test=line("d", '"quoted, it stays."'),
    )

    benchmark = read(tmp_path)

    assert benchmark.splits == {
        "train": {SIGNS: ["SOMEONE opens his eyes.", "He gets up."], "b": ["b."]},
        "val": {"c": ["A café\u2028opens."]},
        "test": {"d": ['"quoted, it stays."']},
    }
    assert list(benchmark.splits["train"]) == [SIGNS, "b"]
    assert not benchmark.windows
    (note,) = benchmark.notes
    assert "3 lines for 2 clips" in note


def test_latin_1_is_read_and_noted_and_archives_are_unpacked(tmp_path):
    write(tmp_path, line("a", "Café."), line("b", "b"), line("c", "c"), encoding="latin-1")
    path = tmp_path / FILES["val"]
    (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()

    benchmark = read(tmp_path)

    assert benchmark.splits["train"] == {"a": ["Café."]}
    assert benchmark.splits["val"] == {"b": ["b"]}
    assert benchmark.notes == (f"{FILES['train']} is not UTF-8: read as Latin-1",)


def test_the_published_protocol_is_counted_in_lines(tmp_path):
    train = "".join(line(f"clip_{i % 101_046}", f"sentence {i}") for i in range(101_079))
    val = "".join(line(f"val_{i}", "s") for i in range(7_408))
    test = "".join(line(f"test_{i}", "s") for i in range(1_000))
    write(tmp_path, train, val, test)

    benchmark = read(tmp_path)

    counts = {
        split: (len(members), sum(map(len, members.values())))
        for split, members in benchmark.splits.items()
    }
    assert counts == {"train": (101_046, 101_079), "val": (7_408,) * 2, "test": (1_000,) * 2}
    assert benchmark.official == counts


def test_a_table_with_a_line_too_few_is_not_the_published_one(tmp_path):
    write(tmp_path, line("a", "a"), line("b", "b"), line("c", "c"))

    assert read(tmp_path).official == {"train": (1, 101_079), "val": (1, 7_408), "test": (1, 1_000)}


def test_all_broken_lines_are_reported_together(tmp_path):
    write(
        tmp_path,
        train=line("a", "fine") + "b\tonly\ttwo more\n" + line("", "no id") + "\n" + line("c", " "),
        val=line("d", "one\ttoo many"),
    )

    with pytest.raises(ValueError) as caught:
        read(tmp_path)

    for part in (
        "training.csv line 2: 3 fields, expected 6 with a TAB",
        "training.csv line 3: its clip id is empty",
        "training.csv line 4: 1 fields",
        "training.csv line 5: its sentence is empty",
        "val.csv line 1: 7 fields",
        "publictect.csv has no lines",
    ):
        assert part in str(caught.value)


def test_missing_tables_are_all_named_with_where_to_get_them(tmp_path):
    (tmp_path / FILES["val"]).write_text(line("a", "a"))

    with pytest.raises(FileNotFoundError) as caught:
        read(tmp_path)

    for part in (FILES["train"], FILES["test"], "describingmovies"):
        assert part in str(caught.value)
    assert FILES["val"] not in str(caught.value)
