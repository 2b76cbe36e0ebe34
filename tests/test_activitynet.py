"""ActivityNet Captions: paragraphs, windows, the two lists and what they lack."""

import json
import zipfile

import pytest
import tensorflow_datasets as tfds

from xclip_jax.data import catalog
from xclip_jax.data.activitynet import activitynet_dataset_builder
from xclip_jax.data.activitynet.annotations import read, window


class ActivitynetTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's checks of a builder: it builds the dummy data and reads them back."""

    DATASET_CLASS = activitynet_dataset_builder.Builder
    EXAMPLE_DIR = activitynet_dataset_builder.Builder.pkg_dir_path / "dummy_data"
    SPLITS = {"videos": 3}  # noqa: RUF012 (TFDS's own form)


def entry(*sentences, duration=9.5):
    return {"duration": duration, "sentences": list(sentences), "timestamps": []}


def write(folder, **files):
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def test_sentences_are_joined_by_one_blank_and_the_window_is_the_whole_video(tmp_path):
    train = {"v_a": entry("One.", " Two."), "v_b": entry("Three.", duration=60)}
    write(tmp_path, train=train, val_1={"v_c": entry("Four.", duration=0.2)})

    benchmark = read(tmp_path)

    assert benchmark.splits == {
        "train": {"v_a": ["One.  Two."], "v_b": ["Three."]},
        "test": {"v_c": ["Four."]},
    }
    assert benchmark.windows == {"v_a": (0, 10), "v_b": (0, 60), "v_c": (0, 1)}
    assert benchmark.notes == ()


@pytest.mark.parametrize("duration, end", [(9.5, 10), (9, 9), (0.01, 1), (0, 1)])
def test_a_window_ends_with_a_whole_second_and_is_never_empty(duration, end):
    assert window(duration) == (0, end)


def test_lists_give_the_order_and_their_differences_are_noted(tmp_path):
    write(
        tmp_path,
        train={f"v_{key}": entry(key) for key in "abc"},
        val_1={"v_d": entry("d")},
        train_ids=["v_c", "v_gone", "a"],
        val_ids=["d"],
    )

    benchmark = read(tmp_path)

    assert list(benchmark.splits["train"]) == ["v_c", "v_a", "v_b"]
    assert benchmark.notes == (
        "train_ids.json: 1 ids have no captions in train.json, left out: v_gone",
        "train.json: 1 not in train_ids.json, used: v_b",
    )


def test_ids_are_known_with_and_without_prefix_even_where_youtube_s_own_begins_with_it(tmp_path):
    captions = {"abcdefghijk": entry("a"), "v_bcdefghij": entry("b"), "v_v_cdefghijk": entry("c")}
    write(tmp_path, train=captions, val_1={"v_d": entry("d")})

    assert list(read(tmp_path).splits["train"]) == [
        "v_abcdefghijk",
        "v_v_bcdefghij",
        "v_v_cdefghijk",
    ]


def test_the_second_validation_file_is_a_split_of_its_own_that_is_not_official(tmp_path):
    with zipfile.ZipFile(tmp_path / "captions.zip", "w") as archive:
        for name, captions in {
            "train": {"v_a": entry("a")},
            "val_1": {"v_b": entry("b")},
            "val_2": {"v_b": entry("other words", duration=12), "v_c": entry("c")},
        }.items():
            archive.writestr(f"captions/{name}.json", json.dumps(captions))

    benchmark = read(tmp_path)

    assert benchmark.splits["test_2"] == {"v_b": ["other words"], "v_c": ["c"]}
    assert set(benchmark.official) == {"train", "test"}
    assert benchmark.windows["v_b"] == (0, 10)
    assert benchmark.notes == ("val_2.json v_b: 10 s count, not 12 s",)


def test_all_that_is_wrong_is_reported_together(tmp_path):
    write(
        tmp_path,
        train={
            "v_a": entry("a", duration=None),
            "v_b": entry(" ", duration=float("nan")),
            "v_c": {"sentences": "c", "duration": True},
            "v_d": [],
            "v_f": entry("f", duration=-1),
            "v_e": entry("e"),
            "e": entry("e again"),
        },
        val_1=[],
        train_ids=["v_a", "a"],
        val_ids={},
    )

    with pytest.raises(ValueError) as caught:
        read(tmp_path)

    for part in (
        "train.json 'v_a': duration: give seconds, not None",
        "train.json 'v_b': its sentences are empty, duration: give seconds, not nan",
        "train.json 'v_c': sentences: give a list of texts, duration: give seconds, not True",
        "train.json 'v_d': sentences",
        "train.json 'v_f': duration: give seconds, not -1",
        "train.json 'e': it is there twice, with and without v_",
        "val_1.json: expected an object of videos",
        "train_ids.json: 1 ids are there twice",
        "val_ids.json: expected a list of ids",
    ):
        assert part in str(caught.value)


def test_missing_files_are_named_with_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks train\.json, val_1\.json: put captions\.z"):
        read(tmp_path)


def test_the_real_annotations_give_the_published_protocol(shared):
    folder = shared / "data/annotations/activitynet-captions"
    by_hand = json.loads((folder / "val_1.json").read_text(encoding="utf-8"))

    benchmark = read(folder)

    assert {split: len(members) for split, members in benchmark.splits.items()} == {
        "train": 10_009,
        "test": 4_917,
    }
    assert set(benchmark.splits["test"]) == set(by_hand)
    for video_id, (text,) in benchmark.splits["test"].items():
        assert text.split() == [w for s in by_hand[video_id]["sentences"] for w in s.split()]
        start, end = benchmark.windows[video_id]
        assert start == 0 and 0 <= end - by_hand[video_id]["duration"] < 1
    assert [int(note.split(": ")[1].split(" ")[0]) for note in benchmark.notes] == [15, 9, 1]


def test_the_real_clips_are_found_under_their_official_ids(shared):
    benchmark = catalog.read("activitynet", shared / "data/annotations/activitynet-captions")
    captions = {
        clip["video"].rpartition("/")[2]: clip["captions"][0]
        for clip in json.loads((shared / "data/real_videos.json").read_text(encoding="utf-8"))
    }

    found = catalog.find(benchmark, shared / "data/videos")

    assert {video_id: path.name for video_id, path in found.items()} == {
        "v_ZNVhz7ctTq0": "v_ZNVhz7ctTq0.mp4",
        "v_GGSY1Qvo990": "v_GGSY1Qvo990.mp4",
    }
    for split, video_id in (("train", "v_ZNVhz7ctTq0"), ("test", "v_GGSY1Qvo990")):
        (text,) = benchmark.splits[split][video_id]
        assert " ".join(text.split()) == captions[found[video_id].name]
