"""The list of one's own clips in its three forms, and the builder in TFDS's own test."""

import json
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from xclip_jax.data.jsonl import jsonl_dataset_builder
from xclip_jax.data.jsonl.jsonl_dataset_builder import read_clips

DUMMY_DATA = Path(jsonl_dataset_builder.__file__).parent / "dummy_data"


class JsonlTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's checks of a builder: it builds the dummy data and reads them back."""

    DATASET_CLASS = jsonl_dataset_builder.Builder
    EXAMPLE_DIR = DUMMY_DATA
    SPLITS = {"train": 2, "test": 1}  # noqa: RUF012 (TFDS's own form)


def write(folder, text, name="captions.jsonl"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(*entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def test_json_lines_become_clips_in_order(tmp_path):
    path = write(
        tmp_path,
        lines(
            {"video": "b/dog.mp4", "captions": ["a dog", "a brown dog"], "fps": 30},
            {"video": "a.mp4", "captions": ["é\u2028ü"], "id": "x", "start": 2, "end": 3.5},
            {"video": "/far/c.mp4", "captions": ["c"], "split": "test"},
        )
        + "\n",
    )

    dog, window, far = read_clips(path)

    assert dog == ("b/dog", tmp_path / "b/dog.mp4", ["a dog", "a brown dog"], None, None, "train")
    assert window == ("x", tmp_path / "a.mp4", ["é\u2028ü"], 2, 3.5, "train")
    assert far == ("far/c", Path("/far/c.mp4"), ["c"], None, None, "test")


def test_unescaped_line_separators_within_a_caption_do_not_split_the_line(tmp_path):
    text = json.dumps({"video": "a.mp4", "captions": ["one\u2028two"]}, ensure_ascii=False)

    assert read_clips(write(tmp_path, text))[0].captions == ["one\u2028two"]


def test_a_json_list_gives_the_same_as_json_lines(tmp_path):
    entries = [{"video": "a.mp4", "captions": ["a"]}, {"video": "b.mp4", "captions": ["b", "c"]}]

    as_list = read_clips(write(tmp_path, json.dumps(entries, indent=1), "list.json"))

    assert as_list == read_clips(write(tmp_path, lines(*entries)))


def test_csv_rows_of_one_clip_are_joined(tmp_path):
    text = (
        "\ufeffvideo,caption,start,end,split,note\r\n"
        'a.mp4,"a dog, running",,,train,x\r\n'
        "b.mp4,second,1,4.5,test,y\r\n"
        "a.mp4,the same dog,,,train,z\r\n"
        "b.mp4,another window,6,7,test,\r\n"
    )

    clips = read_clips(write(tmp_path, text, "list.csv"))

    assert clips == [
        ("a", tmp_path / "a.mp4", ["a dog, running", "the same dog"], None, None, "train"),
        ("b.mp4_1_4.5", tmp_path / "b.mp4", ["second"], 1, 4.5, "test"),
        ("b.mp4_6_7", tmp_path / "b.mp4", ["another window"], 6, 7, "test"),
    ]


def test_default_ids_keep_the_suffix_only_where_two_clips_need_it(tmp_path):
    entries = [{"video": video, "captions": ["x"]} for video in ("v/a.mp4", "v/a.avi", "v/b.mp4")]

    clips = read_clips(write(tmp_path, lines(*entries)))

    assert [clip.video_id for clip in clips] == ["v/a.mp4", "v/a.avi", "v/b"]


def test_videos_may_lie_in_another_folder_and_one_split_may_be_forced(tmp_path):
    (tmp_path / "root").mkdir()
    path = write(tmp_path, lines({"video": "a.mp4", "captions": ["a"], "split": "-"}))

    (clip,) = read_clips(path, tmp_path / "root", split="all_of_it")

    assert clip == ("a", tmp_path / "root/a.mp4", ["a"], None, None, "all_of_it")


def test_all_problems_of_a_list_are_reported_together(tmp_path):
    text = lines(
        {"captions": ["no video"]},
        {"video": "a.mp4", "captions": "not a list"},
        {"video": "b.mp4", "captions": [], "id": "empty"},
        {"video": "c.mp4", "captions": ["c", " "]},
        {"video": "d.mp4", "captions": ["d"], "id": "twice"},
        {"video": "e.mp4", "captions": ["e"], "id": "twice", "split": "a split"},
        {"video": "f.mp4", "captions": ["f"], "start": "soon"},
        {"video": "g.mp4", "captions": ["g"], "start": 5, "end": 4},
        ["h"],
    )

    with pytest.raises(ValueError) as caught:
        read_clips(write(tmp_path, text + "{broken\n"))

    message = str(caught.value)
    for part in (
        "captions.jsonl cannot be used",
        "line 1: video: give a path",
        "line 2: captions: give a list of texts",
        "id 'empty': no caption",
        "id 'c': no caption, or an empty one",
        "id 'twice': 2 clips have it",
        "split 'a split'",
        "line 7: start: give seconds, not 'soon'",
        "id 'g': no window from 5 to 4",
        "line 9: give an object",
        "line 10: not JSON",
    ):
        assert part in message


def test_more_than_ten_problems_end_in_their_count(tmp_path):
    text = lines(*({"video": f"{i}.mp4", "captions": []} for i in range(14)))

    with pytest.raises(ValueError, match=r"id '9'.*; and 4 more, 14 in all\.$") as caught:
        read_clips(write(tmp_path, text))

    assert "id '10'" not in str(caught.value)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.jsonl", "", "has no clips"),
        ("a.json", "[{]", "not JSON"),
        ("a.csv", "video;caption\n", "lacks the column caption and video"),
        ("a.csv", "video,caption,start\na.mp4,x,soon\n", "line 2: could not convert"),
        ("a.csv", "video,caption,start\na.mp4,x,nan\n", "give seconds, not nan"),
        ("a.csv", "video,caption\na.mp4\n", "no caption, or an empty one"),
    ],
)
def test_a_list_that_cannot_be_read_says_why(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_clips(write(tmp_path, text, name))


def test_a_list_in_another_encoding_says_so(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"video": "é.mp4"}'.encode("latin-1"))

    with pytest.raises(ValueError, match=r"a\.jsonl is not text in UTF-8"):
        read_clips(tmp_path / "a.jsonl")


def test_missing_lists_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No list of captions"):
        read_clips(tmp_path / "nowhere.jsonl")
    with pytest.raises(FileNotFoundError, match="No folder of videos"):
        read_clips(write(tmp_path, ""), tmp_path / "nowhere")


def test_the_77_real_clips_are_read(shared):
    clips = read_clips(shared / "data/real_videos.json", split="train")

    assert len(clips) == len({clip.video_id for clip in clips}) == 77
    assert sum(len(clip.captions) for clip in clips) == 582
    assert all(clip.path.is_file() for clip in clips)
