"""What a survey of a benchmark says before a build, and that it writes nothing."""

import json
import os

import numpy as np
import pytest
from rendered import render

from xclip_jax import cli
from xclip_jax.data import coverage
from xclip_jax.data.benchmark import Benchmark


@pytest.fixture
def benchmark():
    return Benchmark(
        "msvd",
        {
            "train": {
                "a": ["one two", "one two", "three"],
                "b": ["a b c d e"],
                "gone": ["x"],
                "twin": ["y"],
            },
            "test": {"b": ["a b c d e", "four"], "broken": ["z", " "]},
            "val": {"a": ["five"]},
        },
        {"train": (5, 7), "val": (1, 1)},
        notes=("line 3: id 'a' is there twice",),
    )


@pytest.fixture
def paths(tmp_path):
    sound = render(tmp_path / "a.mp4", 5)
    os.link(sound, tmp_path / "b.mp4")
    (tmp_path / "twin.mp4").symlink_to(sound)
    (tmp_path / "broken.mp4").write_bytes(bytes(range(256)) * 5)
    return {name: tmp_path / f"{name}.mp4" for name in ("a", "b", "twin", "broken")}


def words(texts):
    """Counts as a tokenizer's mask does: an array, whose numbers a manifest cannot hold."""
    return np.array([len(text.split()) + 2 for text in texts])


def test_a_survey_counts_what_is_there_and_what_is_odd(benchmark, paths):
    found = coverage.cover(benchmark, paths, max_words=4, count_tokens=words, workers=1)

    assert found["splits"]["train"] == {
        "official": [5, 7],
        "listed": [4, 6],
        "present": [3, 5],
        "missing": 1,
        "unreadable": 0,
        "repeated_captions": 1,
        "empty_captions": 0,
        "longer": 1,
        "complete": False,
    }
    test, val = found["splits"]["test"], found["splits"]["val"]
    assert (test["official"], test["present"], test["unreadable"]) == (None, [1, 2], 1)
    assert (test["empty_captions"], test["longer"], test["complete"]) == (1, 1, False)
    assert val["complete"] and val["longer"] == 0
    assert found["in_train_and_test"] == {"train and test": 1, "train and val": 1}
    assert found["missing"] == ["gone"] and list(found["unreadable"]) == ["broken"]
    assert list(found["one_file_for_several_ids"].values()) == [["a", "twin"]]
    assert json.loads(json.dumps(found)) == found


def test_the_table_has_a_line_a_split_and_one_for_each_oddity(benchmark, paths):
    found = coverage.cover(benchmark, paths, max_words=4, count_tokens=words, workers=1)

    head, train, test, val, *rest = coverage.table(found).splitlines()

    assert head.split()[:6] == ["split", "official", "listed", "present", "missing", "unreadable"]
    assert train.split() == ["train", "5/7", "4/6", "3", "1", "0", "5", "16.7%"]
    assert test.split() == ["test", "-", "2/4", "1", "0", "1", "2", "25.0%"]
    assert val.split() == ["val", "1/1", "1/1", "1", "0", "0", "1", "0.0%", "complete"]
    text = "\n".join(rest)
    for part in (
        "'a' is there twice",
        "captions a video has twice: train 1",
        "empty captions: test 1",
        "videos in both: train and test 1, train and val 1",
        "a, twin",
        "missing: gone",
        "unreadable: broken",
    ):
        assert part in text


def test_many_missing_ids_are_shown_by_the_first_ten_and_their_count(paths):
    lost = Benchmark("msvd", {"test": {f"v{i}": ["x"] for i in range(1234)}}, {})

    text = coverage.table(coverage.cover(lost, {}, max_words=9, count_tokens=None))

    assert "missing: v0, v1, " in text and "v9, ... (1,234 in all)" in text and "v10" not in text
    assert "?" in text and "no vocabulary found, give --vocab FILE" in text


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The beginning of a command on an invented VATEX of three videos, one of them missing."""
    notes, clips = tmp_path / "notes", tmp_path / "clips"
    notes.mkdir(), clips.mkdir()
    entries = [
        {"videoID": f"v{i}_000001_000011", "enCap": [f"clip {i} shows {j}" for j in range(10)]}
        for i in range(3)
    ]
    (notes / "vatex_data.json").write_text(json.dumps(entries))
    for name, ids in (("train", [0]), ("val", [1]), ("test", [2])):
        listed = "".join(f"v{i}_000001_000011\n" for i in ids)
        (notes / f"{name}_list.txt").write_text(listed)
    for i in (0, 2):
        render(clips / f"v{i}_000001_000011.mp4", 30, fps=10)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XCLIP_JAX_VOCAB", raising=False)
    return f"build vatex --annotations {notes} --videos {clips} --workers 1".split()


def test_a_dry_run_prints_the_table_and_writes_nothing(command, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))

    cli.main([*command, "--dry-run"])

    text = capsys.readouterr().out
    assert "missing: v1_000001_000011" in text and "no vocabulary found" in text
    assert sorted(tmp_path.rglob("*")) == before


def test_a_build_prints_the_table_first_and_its_manifest_carries_it(command, tmp_path, capsys):
    cli.main([*command, "--out", str(tmp_path / "out"), "--allow-missing"])

    printed = capsys.readouterr()
    assert "missing: v1_000001_000011" in printed.out
    assert "left out val: every clip of it had to be skipped" in printed.err

    render(tmp_path / "clips/v1_000001_000011.mp4", 15, fps=10)
    cli.main([*command, "--out", str(tmp_path / "out")])

    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["coverage"]["splits"]["val"]["present"] == [1, 10]
    assert manifest["splits"]["val"]["official"] == [1500, 15000]
    assert not manifest["splits"]["val"]["complete"]
