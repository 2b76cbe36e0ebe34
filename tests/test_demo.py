"""What the demo says about its results; `make demo` runs all of it."""

import json

import pytest

from xclip_jax import demo
from xclip_jax.data import synthetic


@pytest.fixture
def out(run, shapes, tmp_path):
    """A folder as the demo leaves it, of the tiny data set and the tiny run."""
    (tmp_path / "run").symlink_to(run)
    for name in ("rendered", "shards"):
        (tmp_path / name).symlink_to(shapes / name)
    return tmp_path


def test_answers_are_the_best_of_the_test_clips_and_their_twins(out, shapes):
    queries = synthetic.queries(out / "rendered", count=3)
    listing = (shapes / "rendered" / "captions.jsonl").read_text().splitlines()
    known = {entry["id"]: entry["split"] for entry in map(json.loads, listing)}

    answers = demo.ask(out, queries)

    assert list(answers) == [query for query, _ in queries]
    for query, right in queries:
        found = answers[query]
        assert len(found) == demo.SHOWN
        assert {known[answer.video_id] for answer in found} <= {"test", "twins"}
        assert [answer.score for answer in found] == sorted(
            (answer.score for answer in found), reverse=True
        )
        assert all(answer.right == (answer.video_id == right) for answer in found)
        assert all(frame.startswith(b"\xff\xd8") for answer in found for frame in answer.frames)


def test_the_right_clip_is_among_the_answers_when_all_are_shown(out, monkeypatch):
    monkeypatch.setattr(demo, "SHOWN", 12)
    queries = synthetic.queries(out / "rendered", count=2)

    answers = demo.ask(out, queries)

    for found in answers.values():
        assert len({answer.video_id for answer in found}) == 12
        assert sum(answer.right for answer in found) == 1


def test_chances_name_each_figure_with_its_bounds(shapes):
    facts = json.loads((shapes / "rendered" / "facts.json").read_text())

    text = demo.chances(facts)

    for name in ("t2v/r1", "t2v/r1_with_twins", "twin_accuracy"):
        bounds = facts[name]
        assert f"{name}: chance {bounds['chance']:g}, blind to order at most" in text
        assert f"{bounds['order_blind']:g}" in text
