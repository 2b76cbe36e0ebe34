"""metrics.jsonl on a disk and in a bucket (of fsspec's memory): what is there, and when."""

import json

import pytest

from xclip_jax import lines, remote


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path):
    if request.param == "disk":
        return tmp_path / "metrics.jsonl"
    return remote.place(f"memory://{tmp_path.name}/metrics.jsonl")


def steps(place) -> list[int]:
    return [json.loads(line)["step"] for line in place.read_text().splitlines()]


def test_a_run_that_goes_on_drops_what_it_will_do_again(place):
    first = lines.Lines(place)
    first.start(0)
    for step in (1, 2, 3, 4):
        first.add({"step": step, "train/loss": 0.5})
    first.upload()

    second = lines.Lines(place)
    second.start(2)
    second.add({"step": 3})
    second.upload()

    assert steps(place) == [1, 2, 3] and "train/loss" not in place.read_text().splitlines()[-1]


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path):
    place = tmp_path / "metrics.jsonl"
    place.write_text('{"step": 1}\n{"step": 2, "tra')

    lines.Lines(place).start(2)

    assert place.read_text() == '{"step": 1}\n'


def test_a_new_run_starts_with_none(place):
    old = lines.Lines(place)
    old.start(0)
    old.add({"step": 1})
    old.upload()

    lines.Lines(place).start(0)

    assert place.read_text() == ""


def test_a_bucket_gets_all_lines_at_most_once_a_minute(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(lines.time, "monotonic", lambda: now)
    place = remote.place("memory://minutes/metrics.jsonl")
    log = lines.Lines(place)
    log.start(0)

    log.add({"step": 1})
    assert steps(place) == []
    now += 61
    log.add({"step": 2})
    assert steps(place) == [1, 2]
    log.add({"step": 3})
    assert steps(place) == [1, 2]
    log.upload()
    assert steps(place) == [1, 2, 3]
