"""Annotation files as they come: plain, gzipped, zipped, damaged."""

import gzip
import json
import zipfile

import pytest

from xclip_jax.data import annotation_files
from xclip_jax.data.annotation_files import listing, read_json, read_text


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), text)


def test_plain_gzipped_and_zipped_files_have_one_name_and_the_plain_one_goes_first(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[2]"))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"[3]"))
    zipped(tmp_path / "all.zip", deep__c_json="[4]", b_json="[5]", deep__="")
    (tmp_path / ".d.json").write_text("[6]")

    files = listing(tmp_path)

    assert {name: read_json(source) for name, source in files.items() if name[1:] == ".json"} == {
        "a.json": [1],
        "b.json": [3],
        "c.json": [4],
    }
    assert str(files["c.json"]).endswith("all.zip/deep/c.json")


def test_text_that_is_not_utf_8_says_so_unless_latin_1_is_allowed(tmp_path):
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    source = listing(tmp_path)["a.txt"]

    with pytest.raises(ValueError, match=r"a\.txt is not text in UTF-8 \(.* at byte 0\): save it"):
        read_text(source)
    assert annotation_files.read_text_or_latin_1(source) == ("é", True)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", r"a\.json is not JSON"),
        ("[" * 100_000, "not JSON|nested too deeply"),
        (json.dumps([[1]])[:-1] + ', {"k": 1, "k": 2}]', "has the key 'k' twice"),
    ],
)
def test_json_that_cannot_be_used_says_why(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)

    with pytest.raises(ValueError, match=message):
        read_json(listing(tmp_path)["a.json"])


def test_damaged_archives_and_those_that_unpack_to_too_much_are_named(tmp_path, monkeypatch):
    whole = gzip.compress(bytes(range(256)) * 9)
    (tmp_path / "cut.gz").write_bytes(whole[:-30])
    (tmp_path / "no.gz").write_bytes(b"text")
    (tmp_path / "long.gz").write_bytes(whole)
    monkeypatch.setattr(annotation_files, "MAX_BYTES", 1000)
    files = listing(tmp_path)

    for name in ("cut", "no"):
        with pytest.raises(ValueError, match=rf"{name}\.gz cannot be read: .*Download it again"):
            read_text(files[name])
    with pytest.raises(ValueError, match=r"long\.gz holds more than 1000 bytes"):
        read_text(files["long"])

    (tmp_path / "bad.zip").write_bytes(b"PK?")
    with pytest.raises(ValueError, match=r"bad\.zip cannot be read"):
        listing(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No folder of annotations .*nowhere"):
        listing(tmp_path / "nowhere")
