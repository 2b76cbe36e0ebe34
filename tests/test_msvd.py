"""MSVD's annotations: the published counts, every form of them, pickles that want more."""

import json
import os
import pickle
import struct

import pytest
import tensorflow_datasets as tfds

from xclip_jax.data.benchmark import count
from xclip_jax.data.msvd import annotations, caption_pickle, msvd_dataset_builder


class MsvdTest(tfds.testing.DatasetBuilderTestCase):
    """TFDS's checks of a builder: it builds the dummy data and reads them back."""

    DATASET_CLASS = msvd_dataset_builder.Builder
    EXAMPLE_DIR = msvd_dataset_builder.Builder.pkg_dir_path / "dummy_data"
    SPLITS = {"videos": 3}  # noqa: RUF012 (TFDS's own form)


TEXTS = {
    "aB-_3cDeF1g_10_15": ["a fox digs", "the fox digs a hole", "an animal digs"],
    "hJkLm4nO_pQ_0_7": ["someone peels a pear"],
    "rS5tUvW_xYz_100_104": ["a drum is played", "é ü"],
    "zzzzzzzzzz0_3_9": ["in no list"],
}
LISTS = {"train": ["hJkLm4nO_pQ_0_7", "aB-_3cDeF1g_10_15"], "val": [], "test": []}
LISTS["val"].append("rS5tUvW_xYz_100_104")
LISTS["test"].append("rS5tUvW_xYz_100_104")
WORDS = {video_id: [text.split() for text in texts] for video_id, texts in TEXTS.items()}
NOTES = (
    "1 videos with captions are in no list and left out",
    "val and test share 1 videos: rS5tUvW_xYz_100_104",
)


def lay(folder, captions=None, name="raw-captions.pkl"):
    """Writes the three lists, and a file of captions."""
    for split, ids in LISTS.items():
        (folder / f"{split}_list.txt").write_text("\n".join(ids) + "\n", "utf-8")
    if captions is not None:
        data = captions.encode() if isinstance(captions, str) else captions
        (folder / name).write_bytes(data)
    return folder


def python_2(value, protocol):
    """Returns a pickle as Python 2 wrote it of texts that are bytes."""
    if isinstance(value, str):
        data = value.encode()
        if protocol == 0:
            return b"S" + repr(data)[1:].encode() + b"\n" + b"p7\n"
        return b"U" + bytes([len(data)]) + data + b"q\x07"
    if isinstance(value, list):
        items = [python_2(item, protocol) for item in value]
        if protocol == 0:
            return b"(lp3\n" + b"".join(item + b"a" for item in items)
        return b"]r" + struct.pack("<I", 2**31) + b"(" + b"".join(items) + b"e"
    items = [(python_2(key, protocol), python_2(item, protocol)) for key, item in value.items()]
    if protocol == 0:
        return b"(dp0\n" + b"".join(key + item + b"s" for key, item in items)
    pairs = b"".join(key + item for key, item in items)
    return (b"\x80\x02" if protocol == 2 else b"") + b"}q\x01(" + pairs + b"u"


FORMS = {
    **{f"pickle {n}": (pickle.dumps(WORDS, n), "raw-captions.pkl") for n in (0, 1, 2, 3, 4, 5)},
    "pickle of Python 2, 1": (python_2(WORDS, 1) + b".", "raw-captions.pkl"),
    "pickle of Python 2, 2": (python_2(WORDS, 2) + b".", "raw-captions.pkl"),
    "pickle of whole captions": (pickle.dumps(TEXTS), "raw-captions.pkl"),
    "JSON": (json.dumps(TEXTS), "captions_msvd.json"),
    "JSON lines": (
        "\n".join(json.dumps({"video_id": v, "caption": t}) for v, t in TEXTS.items()),
        "msvd.jsonl",
    ),
    "text": (
        "# Descriptions\n#\n\n"
        + "\r\n".join(f"{v} {text}" for v, texts in TEXTS.items() for text in texts),
        "AllVideoDescriptions.txt",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_captions_gives_the_same_in_the_order_of_the_lists(form, tmp_path):
    lay(tmp_path, *FORMS[form])

    read = annotations.read(tmp_path)

    for split, ids in LISTS.items():
        assert list(read.splits[split].items()) == [(v, TEXTS[v]) for v in ids]
    assert list(read.splits) == ["train", "val", "test"]
    assert (read.name, read.windows, read.notes) == ("msvd", {}, NOTES)


def test_a_protocol_0_pickle_of_python_2_is_read(tmp_path):
    ascii_only = {v: [w for w in words if w[0].isascii()] for v, words in WORDS.items()}
    lay(tmp_path, python_2(ascii_only, 0) + b".")

    read = annotations.read(tmp_path)

    assert read.splits["train"]["hJkLm4nO_pQ_0_7"] == ["someone peels a pear"]
    assert read.splits["test"] == {"rS5tUvW_xYz_100_104": ["a drum is played"]}


def test_the_references_form_goes_before_the_others_and_a_note_says_so(tmp_path):
    lay(tmp_path, *FORMS["pickle 2"])
    (tmp_path / "AllVideoDescriptions.txt").write_text("hJkLm4nO_pQ_0_7 Other words.\n")

    read = annotations.read(tmp_path)

    assert read.splits["train"]["hJkLm4nO_pQ_0_7"] == ["someone peels a pear"]
    assert read.notes[0] == (
        "captions in both AllVideoDescriptions.txt and raw-captions.pkl: those of the latter are"
        " used"
    )


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_a_function_is_refused_by_its_name_and_nothing_runs(protocol, tmp_path):
    harm = Harm(tmp_path / "made")
    data = pickle.dumps({"v_0_1": [["a", harm]]}, protocol)
    lay(tmp_path, data)

    with pytest.raises(
        ValueError, match=rf"raw-captions\.pkl.*asks for {os.mkdir.__module__}\.mkdir"
    ):
        annotations.read(tmp_path)

    assert not (tmp_path / "made").exists()
    pickle.loads(data)  # the same does harm where it is let
    assert (tmp_path / "made").is_dir()


INNER = b"]q\x00" + b"]" * 5000 + b"a" * 5000  # lists in lists, too deep for repr
BAD_PICKLES = {
    b"": "damaged",
    b"\x80\x02}q\x00": "damaged",
    b"<html>404</html>": "damaged",
    b"\x80\x02K\x05.": "instruction BININT1, which captions never need",
    b"\x80\x02].": "holds no dict",
    b"\x80\x02}.": "holds no dict",
    b"\x80\x02}h\x09.": "damaged",
    b"\x80\x02e.": "damaged",
    b"\x80\x02}X\x01\x00\x00\x00aNs.": "instruction NONE",
    b"\x80\x02}X\x01\x00\x00\x00aX\x01\x00\x00\x00bs.": "no dict from ids to lists",
    b"\x80\x02}]]s.": "damaged",
    b"\x80\x02}X\xff\xff\xff\x7faNs.": "damaged",
    b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.": "damaged",
    b"\x80\x02}X\x01\x00\x00\x00a]" + INNER + b"as.": "no text",
    b"\x80\x04" + INNER + b"\x93.": "asks for",
    b"\x80\x02}q\x00X\x01\x00\x00\x00a]q\x01h\x01as.": "no text",
    b"\x80\x02}U\x01\xe9]s.": "damaged",
}


@pytest.mark.parametrize("data", BAD_PICKLES, ids=lambda data: repr(data)[:40])
def test_a_damaged_or_strange_pickle_gives_one_line(data):
    with pytest.raises(ValueError, match=BAD_PICKLES[data]) as caught:
        caption_pickle.load(data, "x.pkl")

    assert str(caught.value).startswith("x.pkl ") and len(str(caught.value)) < 400


def test_a_small_pickle_cannot_unpack_to_gigabytes():
    word = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\x00"
    data = b"\x80\x02}X\x01\x00\x00\x00v](](" + word + b"h\x00" * 5000 + b"ees."

    with pytest.raises(ValueError, match="unpacks to more than 64 MiB"):
        caption_pickle.load(data, "x.pkl")


def test_a_pickle_of_features_is_passed_over_where_captions_are_there(tmp_path):
    lay(tmp_path, *FORMS["JSON"])
    (tmp_path / "features.pkl").write_bytes(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.")

    notes = annotations.read(tmp_path).notes

    assert "asks for numpy.core.multiarray._reconstruct" in notes[0]


def test_all_that_is_missing_is_said_together(tmp_path):
    (tmp_path / "val_list.txt").write_text("x_1_2\n")

    with pytest.raises(
        FileNotFoundError,
        match=r"no train_list\.txt, no test_list\.txt, no file of captions: put train_list",
    ):
        annotations.read(tmp_path)


def test_all_problems_come_in_one_line(tmp_path):
    lines = ["aB-_3cDeF1g_10_15 a fox", "no caption here", "hJkLm4nO_pQ_0_7"]
    lay(tmp_path, "\n".join(lines), "AllVideoDescriptions.txt")
    (tmp_path / "train_list.txt").write_text("aB-_3cDeF1g_10_15\n" * 2)
    (tmp_path / "val_list.txt").write_bytes("é".encode("latin-1"))

    with pytest.raises(ValueError) as caught:
        annotations.read(tmp_path)

    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "AllVideoDescriptions.txt: line 2: no id and caption; line 3: no id and caption",
        "train_list.txt has aB-_3cDeF1g_10_15 more than once",
        "val_list.txt is not text in UTF-8",
    ):
        assert part in message


def test_ids_without_captions_and_empty_captions_are_named(tmp_path):
    few = {v: TEXTS[v] for v in LISTS["train"]}
    lay(tmp_path, json.dumps(few), "captions.json")

    with pytest.raises(ValueError, match=r"test_list\.txt: 1 of its 1 ids have no captions: rS5"):
        annotations.read(tmp_path)
    lay(tmp_path, json.dumps(TEXTS | {"x_1_2": [], "y_1_2": ["a", " "]}), "captions.json")
    with pytest.raises(ValueError, match="x_1_2: no caption, or an empty one; y_1_2: no caption"):
        annotations.read(tmp_path)


@pytest.fixture(scope="module")
def official(shared):
    folder = shared / "data/annotations/msvd-annotations"
    if not folder.is_dir():
        pytest.skip("needs the annotations of MSVD")
    return annotations.read(folder)


def test_the_published_counts_are_met(official, shared):
    counts = {split: count(members) for split, members in official.splits.items()}
    assert counts == {"train": (1200, 48_774), "val": (100, 4290), "test": (670, 27_763)}
    assert counts == official.official and not official.notes

    sizes = [len(texts) for texts in official.splits["test"].values()]
    assert (min(sizes), max(sizes)) == (21, 81)
    lists = shared / "data/annotations/msvd-annotations/test_list.txt"
    assert list(official.splits["test"]) == lists.read_text().split()


def test_a_pickle_of_the_official_captions_gives_the_same(official, shared, tmp_path):
    folder = shared / "data/annotations/msvd-annotations"
    for split in LISTS:
        (tmp_path / f"{split}_list.txt").symlink_to(folder / f"{split}_list.txt")
    captions = json.loads((folder / "captions_msvd.json").read_text("utf-8"))
    words = {v: [text.split(" ") for text in texts] for v, texts in captions.items()}
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(words, 2))

    assert annotations.read(tmp_path) == official
