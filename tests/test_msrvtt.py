"""MSR-VTT's annotations: the published counts, every form of them, and what is wrong with some."""

import gzip
import json
import zipfile

import pytest
import tensorflow_datasets as tfds

from xclip_jax.data.benchmark import count
from xclip_jax.data.msrvtt import annotations, msrvtt_dataset_builder


class MsrvttTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's checks of a builder: it builds the dummy data and reads them back."""

    DATASET_CLASS = msrvtt_dataset_builder.Builder
    EXAMPLE_DIR = msrvtt_dataset_builder.Builder.pkg_dir_path / "dummy_data"
    SPLITS = {"videos": 3}  # noqa: RUF012 (TFDS's own form)


# id -> captions, in the order of the file. By their numbers: two to train on, one to validate, and
# three to test on, of which two are the 1k-A test.
TEXTS = {
    "video7": ["a red cube falls", "a cube drops "],
    "video2": ["a robot waves"],
    "video6600": ["a lamp is lit", "light fills a room", "someone lights a lamp"],
    "video9000": ["waves roll in"],
    "video7500": ["a kite flies", "the kite rises"],
    "video7010": ["a bell rings", "ringing"],
}
SENTENCES = {"video9000": "the sea in the evening", "video7010": "a bell rings"}
FIELDS = {"video7": "train", "video2": "train", "video6600": "validate"}
TRAIN, VAL, TEST = ["video7", "video2"], ["video6600"], ["video9000", "video7500", "video7010"]


def write(folder, **files):
    for name, text in files.items():
        name = name.replace("__", ".")
        (folder / name).write_text(text if isinstance(text, str) else json.dumps(text), "utf-8")
    return folder


def table(ids):
    return "video_id\n" + "".join(f"{video_id}\n" for video_id in ids)


def test_sentences():
    rows = [f"ret{i},msr{v[5:]},{v},{text}" for i, (v, text) in enumerate(SENTENCES.items())]
    return "\r\n".join(["key,vid_key,video_id,sentence", *rows]) + "\r\n"


test_sentences.__test__ = False


def released(ids):
    """The form of the first release, and of CLIP4Clip's MSRVTT_data.json."""
    videos = [{"video_id": v, "split": FIELDS.get(v, "test"), "id": int(v[5:])} for v in ids]
    pairs = [{"video_id": v, "caption": text, "sen_id": 3} for v in ids for text in TEXTS[v]]
    return {"info": {}, "videos": videos[::-1], "sentences": pairs}


def data_json(folder):
    write(folder, MSRVTT_data__json=released(TEXTS))


def gzipped(folder):
    data = json.dumps(released(TEXTS)).encode()
    (folder / "MSRVTT_data.json.gz").write_bytes(gzip.compress(data))


def two_files(folder):
    write(
        folder,
        train_val_videodatainfo__json=released(TRAIN + VAL),
        test_videodatainfo__json=released(TEST),
    )


def zipped(folder):
    parts = {
        "train_val_annotation.zip": ("train_val_videodatainfo.json", TRAIN + VAL),
        "test_videodatainfo.json.zip": ("test_videodatainfo.json", TEST),
    }
    for name, (member, ids) in parts.items():
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("readme.txt", "about")
            archive.writestr(member, json.dumps(released(ids)))


def frozen(folder):
    pairs = [{"image_id": v, "caption": text, "id": 5} for v in TEXTS for text in TEXTS[v]]
    write(folder, MSR_VTT__json={"images": [{"id": v} for v in TEXTS], "annotations": pairs})


def mirror_lists(folder):
    def entries(ids):
        return [{"video_id": v, "video": f"{v}.mp4", "caption": TEXTS[v]} for v in ids]

    write(folder, msrvtt_train_7k__json=entries(TRAIN + VAL), rest__json=entries(TEST))


def mirror_lines(folder):
    lines = [json.dumps({"video": f"{v}.mp4", "captions": TEXTS[v]}) for v in TEXTS]
    write(folder, captions__jsonl="\n".join(lines) + "\n")


def a_line_each(folder):
    lines = [json.dumps({"video_id": v, "caption": text}) for v in TEXTS for text in TEXTS[v]]
    write(folder, captions__jsonl="\n".join(lines))


def ordered(splits):
    return {split: list(members.items()) for split, members in splits.items()}


FORMS = [data_json, gzipped, two_files, zipped, frozen, mirror_lists, mirror_lines, a_line_each]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_captions_gives_the_same(form, tmp_path):
    form(tmp_path)
    write(tmp_path, MSRVTT_JSFUSION_test__csv=test_sentences())

    read = annotations.read(tmp_path)

    pick = {
        "train_9k": ["video7", "video2", "video6600", "video7500"],
        "train_7k": TRAIN + VAL,
        "train_full": TRAIN,
        "val_full": VAL,
        "test_full": TEST,
    }
    expected = {split: {v: TEXTS[v] for v in ids} for split, ids in pick.items()}
    expected["test_1ka"] = {v: [text] for v, text in SENTENCES.items()}
    assert ordered(read.splits) == ordered(expected)
    assert (read.name, read.windows, read.notes) == ("msrvtt", {}, ())
    assert set(read.official) == set(read.splits)


def test_lists_go_before_what_could_be_derived(tmp_path):
    data_json(tmp_path)
    train = tmp_path / "MSRVTT_train.9k.csv"
    train.write_text("﻿video_id,note\nvideo2,x\nvideo7,y\n", "utf-8")
    write(
        tmp_path,
        MSRVTT_JSFUSION_test__csv=test_sentences(),
        train_list_miech__txt="video7010\nvideo7\n",
        test_list_miech__txt="video6600\nvideo7500\n",
        train_list_full__txt="video7",
        category__txt="music 0\n",
    )

    splits = annotations.read(tmp_path).splits

    assert list(splits["train_9k"]) == ["video7", "video2"]
    assert list(splits["train_full"]) == ["video7"]
    assert list(splits["train_7k"]) == ["video7", "video6600"]
    assert list(splits["train_1kb"]) == ["video7", "video7010"]
    assert splits["test_1kb"] == {"video6600": ["a lamp is lit"], "video7500": ["a kite flies"]}


def test_a_mirrors_list_of_single_captions_is_the_1ka_test(tmp_path):
    data_json(tmp_path)
    entries = [{"video_id": v, "caption": text} for v, text in SENTENCES.items()]
    write(tmp_path, msrvtt_test_1k__json=entries)

    assert annotations.read(tmp_path).splits["test_1ka"] == {v: [t] for v, t in SENTENCES.items()}


def test_captions_of_the_training_part_alone_give_no_wrong_splits(tmp_path):
    entries = [{"video_id": v, "caption": TEXTS[v]} for v in TEXTS if v not in SENTENCES]
    write(tmp_path, msrvtt_train_9k__json=entries, MSRVTT_JSFUSION_test__csv=test_sentences())

    read = annotations.read(tmp_path)

    assert list(read.splits) == ["train_9k", "train_7k", "train_full", "val_full", "test_1ka"]
    assert len(read.splits["train_9k"]) == 4
    assert "no test_full: the captions of the 1k-A test's videos are missing" in read.notes


def test_without_its_sentences_there_is_no_1ka_test(tmp_path):
    data_json(tmp_path)
    write(tmp_path, val_list_jsfusion__txt="\n".join(SENTENCES))

    read = annotations.read(tmp_path)

    assert not {"test_1ka", "train_9k"} & set(read.splits)
    assert "MSRVTT_JSFUSION_test.csv, which is missing" in read.notes[0]


def test_videos_in_train_and_test_are_noted(tmp_path):
    data_json(tmp_path)
    write(
        tmp_path,
        MSRVTT_JSFUSION_test__csv=test_sentences(),
        MSRVTT_train__9k__csv=table(["video7", "video9000"]),
    )

    assert "train_9k and test_1ka share 1 videos: video9000" in annotations.read(tmp_path).notes


def test_a_folder_without_captions_says_what_to_download(tmp_path):
    write(tmp_path, MSRVTT_JSFUSION_test__csv=test_sentences(), other__json={"a": 1})

    with pytest.raises(FileNotFoundError, match=r"no file of captions: put MSRVTT_data\.json"):
        annotations.read(tmp_path)


def test_all_problems_of_the_files_come_in_one_line(tmp_path):
    entries = [{"video_id": "video1", "caption": "x"}, {"caption": "y"}]
    entries += [{"video_id": "video3", "caption": " "}, {"video_id": "video4"}, "z"]
    write(
        tmp_path,
        MSRVTT_data__json={"videos": [], "sentences": entries},
        MSRVTT_train__9k__csv=table(["video1", "video2", "video1"]),
        MSRVTT_train__7k__csv="id\nvideo1\n",
        MSRVTT_JSFUSION_test__csv="key,video_id\nret0,video1\n",
        val_list_jsfusion__csv="video_id,sentence\nvideo1,x\nvideo2,y\nvideo1,z\n",
        MSRVTT_val__full__csv="video_id\n",
        broken__json="[1,",
        mirror__json=[{"video_id": "video5", "caption": ["x", "y"]}] * 2,
    )
    (tmp_path / "test_list_miech.txt").write_bytes("vidéo1\n".encode("latin-1"))

    with pytest.raises(ValueError) as caught:
        annotations.read(tmp_path)

    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "MSRVTT_data.json: entry 2 has no video_id; entry 3, video3: no caption, or an empty one;"
        " entry 4, video4: no caption, or an empty one; entry 5 has no video_id",
        "MSRVTT_train.9k.csv has video1 more than once",
        "MSRVTT_train.7k.csv lacks the column video_id",
        "MSRVTT_JSFUSION_test.csv lacks a column",
        "MSRVTT_val.full.csv lacks the column video_id, or has no rows",
        "broken.json is not JSON",
        "mirror.json: entry 2, video5: it has another entry",
        "val_list_jsfusion.csv has video1 more than once",
        "test_list_miech.txt is not text in UTF-8",
    ):
        assert part in message


def test_ids_of_a_list_without_captions_are_named(tmp_path):
    data_json(tmp_path)
    write(tmp_path, MSRVTT_train__7k__csv=table(["video2", "video4", "video5"]))

    with pytest.raises(
        ValueError, match=r"7k\.csv: 2 of its 3 ids have no captions: video4, video5"
    ):
        annotations.read(tmp_path)


def test_files_that_contradict_each_other_are_named(tmp_path):
    data_json(tmp_path)
    other = [{"image_id": "video7", "caption": "something else"}]
    write(tmp_path, MSR_VTT__json={"annotations": other})

    with pytest.raises(
        ValueError, match=r"MSRVTT_data\.json and MSR_VTT\.json give other captions of video7: keep"
    ):
        annotations.read(tmp_path)


def test_files_of_another_kind_are_passed_over(tmp_path):
    data_json(tmp_path)
    write(
        tmp_path,
        train_qa__json=[{"video_id": "video7", "question": "what?", "answer": "a cube"}],
        ids__json=["video7", "video2"],
        dataset_infos__json={"features": {}},
        category__txt="music\t0\n",
        other__csv="a,b\n1,2\n",
    )

    splits = annotations.read(tmp_path).splits

    assert set(splits) == {"train_7k", "train_full", "val_full", "test_full"}


@pytest.fixture(scope="module")
def official(shared):
    folder = shared / "data/annotations/msrvtt-annotations"
    if not folder.is_dir():
        pytest.skip("needs the annotations of MSR-VTT")
    return annotations.read(folder)


def test_the_published_counts_are_met(official):
    assert {split: count(members) for split, members in official.splits.items()} == {
        "train_9k": (9000, 180_000),
        "train_7k": (7010, 140_200),
        "train_full": (6513, 130_260),
        "val_full": (497, 9940),
        "test_full": (2990, 59_800),
        "test_1ka": (1000, 1000),
    }
    assert all(
        count(official.splits[split]) == official.official[split] for split in official.splits
    )
    assert not official.notes


def test_the_official_splits_lie_in_each_other_as_they_should(official):
    ids = {split: set(members) for split, members in official.splits.items()}

    assert not ids["train_9k"] & ids["test_1ka"]
    assert ids["train_9k"] | ids["test_1ka"] == {f"video{i}" for i in range(10_000)}
    assert (
        ids["train_7k"] == ids["train_full"] | ids["val_full"] and ids["train_7k"] < ids["train_9k"]
    )
    assert ids["test_1ka"] < ids["test_full"] == {f"video{i}" for i in range(7010, 10_000)}


def test_official_captions_stand_in_the_order_of_their_files(official):
    assert list(official.splits["train_9k"])[:2] == ["video2960", "video2636"]
    assert {len(texts) for texts in official.splits["train_9k"].values()} == {20}
    assert next(iter(official.splits["test_1ka"].items())) == (
        "video9770",
        ["a person is connecting something to system"],
    )


def test_the_zips_as_published_give_the_same_with_derived_splits(official, shared, tmp_path):
    folder = shared / "data/annotations/msrvtt-annotations"
    for name in ("train_val_annotation.zip", "test_videodatainfo.json.zip"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "MSRVTT_JSFUSION_test.csv").symlink_to(folder / "MSRVTT_JSFUSION_test.csv")

    assert ordered(annotations.read(tmp_path).splits) == ordered(official.splits)
