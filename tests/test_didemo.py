"""DiDeMo: ids in every form, descriptions joined, stand-ins for the file that cannot be had."""

import csv
import json

import pytest
import tensorflow_datasets as tfds

from xclip_jax.data import catalog, lookup
from xclip_jax.data.benchmark import videos
from xclip_jax.data.didemo import didemo_dataset_builder
from xclip_jax.data.didemo.annotations import read


class DidemoTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's checks of a builder: it builds the dummy data and reads them back."""

    DATASET_CLASS = didemo_dataset_builder.Builder
    EXAMPLE_DIR = didemo_dataset_builder.Builder.pkg_dir_path / "dummy_data"
    SPLITS = {"videos": 3}  # noqa: RUF012 (TFDS's own form)


A, B, C, D = "1@N_2_aa.mov", "1@N_3_bb.mp4", "1@N_4_cc.", "1@N_5_dd.avi"


def says(video, text):
    return {"video": video, "description": text, "times": [[0, 0]]}


def write(folder, lists=None, **data):
    for split, ids in {"train": [A], "val": [C], "test": [D], **(lists or {})}.items():
        (folder / f"{split}_list.txt").write_text("\n".join(ids) + "\n")
    default = {"train": [says(A, "a")], "val": [says(C, "c")], "test": [says(D, "d")]}
    for split, rows in default.items():
        rows = data.get(split, rows)
        if rows is not None:
            (folder / f"{split}_data.json").write_text(json.dumps(rows))


def test_descriptions_are_joined_in_the_order_of_the_file_and_so_are_the_videos(tmp_path):
    rows = [says(B, "b one."), says(A, "a one"), says(B, "b two"), says(A, "a two.")]
    write(tmp_path, {"train": [A, B]}, train=rows)

    benchmark = read(tmp_path)

    assert list(benchmark.splits["train"].items()) == [
        (B, ["b one. b two"]),
        (A, ["a one a two."]),
    ]
    assert benchmark.splits["val"] == {C: ["c"]} and benchmark.splits["test"] == {D: ["d"]}
    assert benchmark.windows == dict.fromkeys([B, A, C, D], (0, 31))
    assert benchmark.official == {"train": (8392,) * 2, "val": (1065,) * 2, "test": (1004,) * 2}
    assert benchmark.notes == ()


@pytest.mark.parametrize("form", ["1@N_2_aa.mov", "1@N_2_aa.mov.mp4", "1@N_2_aa", "1@N_2_aa."])
def test_ids_of_lists_and_captions_may_have_different_forms(tmp_path, form):
    write(tmp_path, {"train": [form]})

    assert read(tmp_path).splits["train"] == {form: ["a"]}


def test_what_is_said_of_a_video_under_a_second_suffix_is_left_out(tmp_path):
    rows = [says("1@N_2_aa.avi", "not this"), says(A, "this"), says("1@N_9_zz.mp4", "unlisted")]
    write(tmp_path, train=rows)

    benchmark = read(tmp_path)

    assert benchmark.splits["train"] == {A: ["this"]}
    assert benchmark.notes == (
        "train_data.json: 1 videos are there under a second suffix; what is said there is left"
        " out, as in the references",
        "train_data.json: 1 videos are not in train_list.txt and left out",
    )


def test_files_of_other_projects_stand_in_for_the_missing_one_best_first(tmp_path):
    write(tmp_path, {"train": [A, B, "1@N_6_ee.mov", "1@N_7_ff.mov"]}, train=None)
    with open(tmp_path / "label.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerows([["success", "video_path", "text"], ["True", f"/far/{B}", "b one, b two"]])
    lines = [
        {"clip_id": "1@N_2_aa", "text": ["a one", "a two"]},
        {"clip_id": "1@N_3_bb", "text": ["b two", "b one"]},
    ]
    (tmp_path / "proxy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "region.tsv").write_text("e one., e\t1@N_6_ee.mp4\n".replace("e\t", "e two, \t"))

    benchmark = read(tmp_path)

    assert list(benchmark.splits["train"].items()) == [
        (B, ["b one, b two"]),
        (A, ["a one a two"]),
        ("1@N_6_ee.mov", ["e one., e two"]),
    ]
    assert "train" not in benchmark.official
    stand_in, lacking = benchmark.notes
    assert "(label.csv 1, proxy.jsonl 1, region.tsv 1)" in stand_in
    assert lacking == "train: 1 listed without captions: 1@N_7_ff.mov"


def test_all_that_is_wrong_is_reported_together(tmp_path):
    rows = [says(A, "fine"), {"video": B}, says("", "x"), says(B, " "), "text"]
    write(tmp_path, {"val": [C, C], "test": ["1@N_5_dd.avi", "1@N_5_dd"]}, train=rows, test={})
    (tmp_path / "train_list.txt").write_bytes(b"\xe9\n")
    (tmp_path / "quote.tsv").write_text('"never closed ' + 200_000 * "x")

    with pytest.raises(ValueError) as caught:
        read(tmp_path)

    for part in (
        "train_data.json entry 2, 1@N_3_bb.mp4: no description",
        "train_data.json entry 3: no video",
        "train_data.json entry 4, 1@N_3_bb.mp4: no description, or an empty one",
        "train_data.json entry 5: no video",
        "train_list.txt is not text in UTF-8",
        "quote.tsv is no table, line 1: field larger",
        "more than once",
        "1@N_5_dd.avi there twice",
        "test_data.json: expected a list",
    ):
        assert part in str(caught.value)


def test_missing_lists_and_captions_are_named_with_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train_list\.txt, val_list\.txt.*Localizing"):
        read(tmp_path)

    write(tmp_path, train=None)
    with pytest.raises(ValueError, match=r"no captions of train: get train_data\.json"):
        read(tmp_path)


def test_the_real_annotations_give_the_published_protocol(shared):
    folder = shared / "data/annotations/didemo-annotations"

    benchmark = read(folder)

    counts = {split: len(members) for split, members in benchmark.splits.items()}
    assert counts == {"train": 8392, "val": 1065, "test": 1004}
    assert set(benchmark.official) == {"val", "test"}  # the official train_data.json is not there
    assert "(tmass_didemo_train_label.csv 8362, textproxy_train.jsonl 29," in benchmark.notes[0]
    # Another project's join of the same file, made for training by the references' code.
    for split in ("val", "test"):
        with open(folder / f"tmass_didemo_{split}_label.csv", encoding="utf-8") as file:
            rows = [(row["video_path"], row["text"]) for row in csv.DictReader(file)]
        assert len(rows) > 1000
        for path, text in rows:
            assert benchmark.splits[split][path.rpartition("/")[2]] == [text]


def test_the_stand_in_alone_covers_the_list_but_for_one_video(shared, tmp_path):
    folder = shared / "data/annotations/didemo-annotations"
    names = [f"{split}_list.txt" for split in ("train", "val", "test")]
    for name in (*names, "val_data.json", "test_data.json", "textproxy_train.jsonl"):
        (tmp_path / name).symlink_to(folder / name)

    benchmark = read(tmp_path)

    assert len(benchmark.splits["train"]) == 8391
    assert "train: 1 listed without captions: 7977365@N08_4302546663_967c137c57.mov" in (
        benchmark.notes
    )


def test_ids_that_end_in_mp4_find_their_files_which_x_clip_never_does(shared, tmp_path):
    benchmark = read(shared / "data/annotations/didemo-annotations")
    for video_id in videos(benchmark):
        (tmp_path / video_id).touch()

    found = catalog.find(benchmark, tmp_path)

    lost = {  # X-CLIP's key is the file's name up to its first ".mp4"
        split: sum(video_id.partition(".mp4")[0] != video_id for video_id in members)
        for split, members in benchmark.splits.items()
    }
    assert lost == {"train": 1279, "val": 223, "test": 179}
    assert {video_id: path.name for video_id, path in found.items()} == {
        video_id: video_id for video_id in videos(benchmark)
    }


def test_files_renamed_to_mp4_are_found_whatever_their_id_ends_in(shared, tmp_path):
    benchmark = read(shared / "data/annotations/didemo-annotations")
    test = benchmark.splits["test"]
    for i, video_id in enumerate(test):
        name = (f"{video_id}.mp4", f"{video_id.rpartition('.')[0]}.mp4")[i % 2]
        (tmp_path / name).touch()

    found = lookup.find(tmp_path, test, **lookup.RULES["didemo"])

    assert list(found) == list(test)
