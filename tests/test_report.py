"""The HTML report: one file that needs nothing else, with text that cannot become markup."""

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image

from xclip_jax import charts, eval_report, frames, metrics, report
from xclip_jax.records import Shards

JPEG = frames.encode_jpeg(Image.new("RGB", (8, 6), (200, 30, 30)))
LOSSES = [(1, 3.0), (4, 2.0), (9, 0.5)]


@pytest.fixture
def page(tmp_path):
    """The text of a report with one query of hostile text, whose second answer is right."""
    lines = [json.dumps({"step": step, "train/loss": loss}) for step, loss in LOSSES]
    lines.append(json.dumps({"step": 9, "t2v/r1": 25.0}))
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    names = ("r1", "r5", "r10", "median_rank", "mean_rank")
    report.write(
        tmp_path / "report.html",
        title="A <title> & more",
        summary="chance < 5 %",
        metrics_file=tmp_path / "metrics.jsonl",
        scores={f"t2v/{name}": 23.4 for name in names} | {"twins/accuracy": 0.875},
        answers={
            '<script>alert("query")</script>': [
                report.Answer("wrong<b>", 7.25, [JPEG, JPEG], right=False),
                report.Answer("clip-2", 6.5, [JPEG], right=True),
            ]
        },
    )
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_elsewhere(page):
    sources = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"')>\s]*)""", page)

    assert not re.search(r"<(script|link|iframe|object|embed|base)\b|@import", page)
    assert [
        source for source in sources if not source.startswith(("data:image/jpeg;base64,", "#"))
    ] == []
    assert sum(source.startswith("data:") for source in sources) == 3


def test_text_cannot_become_markup(page):
    assert "&lt;script&gt;alert(&quot;query&quot;)&lt;/script&gt;" in page
    assert "<title>A &lt;title&gt; &amp; more</title>" in page
    assert "wrong&lt;b&gt;" in page and "chance &lt; 5 %" in page


def test_answers_are_ranked_with_their_frames_and_the_right_one_is_marked(page):
    blocks = page.split('<div class="answer')[1:]

    assert [re.search(r">(\d\. \S+) ", block)[1] for block in blocks] == [
        "1. wrong&lt;b&gt;",
        "2. clip-2",
    ]
    assert [block.startswith(' right"') for block in blocks] == [False, True]
    assert ["✓ right" in block for block in blocks] == [False, True]
    assert [block.count("<img") for block in blocks] == [2, 1]
    assert base64.b64encode(JPEG).decode() in blocks[1]


def test_the_table_is_on_the_page(page):
    assert re.search(r"text to video +23\.4 +23\.4", page)
    assert re.search(r"twins/accuracy +0\.875", page)


def test_the_loss_curve_has_a_point_for_each_report(page):
    curve = page[page.index("<svg") : page.index("</svg>")]
    lines = re.findall(r'<path d="([^"]*)"[^>]*stroke: #2463a6', curve)

    [points] = [re.findall(r"[ML] ([\d.]+) ([\d.]+)", line) for line in lines]
    x, y = ([float(value) for value in column] for column in zip(*points, strict=True))
    assert len(points) == len(LOSSES)
    # Steps 1, 4, 9 to the right; losses 3, 2, 0.5 downwards, for an SVG's y grows downwards.
    assert (x[2] - x[1]) / (x[1] - x[0]) == pytest.approx(5 / 3, rel=1e-3)
    assert (y[2] - y[1]) / (y[1] - y[0]) == pytest.approx(1.5, rel=1e-3) and y[1] > y[0]


def test_the_worst_failures_are_of_different_videos_and_name_the_one_that_won():
    counts = np.array([2, 1, 3, 1])
    scores = np.array(
        [
            [0.1, 0.9, 0.2, 0.3],  # video 0: rank 4, video 1 won
            [0.2, 0.4, 0.8, 0.3],  # video 0 again, also 4
            [0.1, 0.7, 0.2, 0.3],  # video 1: first, no failure
            [0.1, 0.5, 0.2, 0.3],  # video 2: rank 3
            [0.6, 0.1, 0.5, 0.2],  # video 2: rank 2
            [0.1, 0.2, 0.9, 0.3],  # video 2: first
            [0.4, 0.1, 0.2, 0.4],  # video 3: as good as video 0, rank 1.5
        ]
    )

    found = eval_report.worst(scores, counts, 20)

    assert found == [(0, 0, 1, 4.0), (3, 2, 1, 3.0), (6, 3, 0, 1.5)]
    assert eval_report.worst(scores, counts, 2) == found[:2]


@pytest.fixture
def evaluation(shapes, tmp_path):
    """The text of an evaluation's page with drawn scores, those scores, and their shards."""
    shards = Shards(shapes / "shards", "test")
    scores = np.random.default_rng(0).normal(size=(30 + 4, 6 + 2))  # rows and columns of twins too
    eval_report.write(
        tmp_path / "page.html", "<run>", ["a & b"], "<table>", scores, shards, ties="average"
    )
    return (tmp_path / "page.html").read_text(encoding="utf-8"), scores[:30, :6], shards


def test_the_evaluation_is_one_file_whose_text_cannot_become_markup(evaluation):
    page = evaluation[0]

    assert not re.search(
        r"<(script|link|iframe|object|embed|base|run|table)\b|@import|https?:", page
    )
    assert (
        "<h1>&lt;run&gt;</h1>" in page
        and "a &amp; b" in page
        and "<pre>&lt;table&gt;</pre>" in page
    )


def test_each_failure_has_its_query_its_own_clip_and_the_clip_that_won(evaluation):
    page, scores, shards = evaluation
    counts = shards.captions_per_video
    expected = eval_report.worst(scores, counts, eval_report.WORST)

    blocks = page.split('<div class="query">')[1:]

    assert len(blocks) == len(expected) > 2
    for block, (caption, own, winner, rank) in zip(blocks, expected, strict=True):
        assert f"<h3>“{shards[own].captions[caption - 5 * own]}”</h3>" in block
        rows = block.split('<div class="answer')[1:]
        assert f"rank {rank:g}: {shards.video_ids[own]} " in rows[0] and "✓ its own" in rows[0]
        assert f"came first: {shards.video_ids[winner]} " in rows[1] and "✓" not in rows[1]
        assert f"{scores[caption, own]:.2f}<" in rows[0]
        for row, video in zip(rows, (own, winner), strict=True):
            assert row.count("<img") == min(len(shards[video].frames), eval_report.SHOWN)


def test_the_charts_show_the_ranks_of_both_directions(evaluation):
    page, scores, shards = evaluation
    both = metrics.both_ranks(scores, shards.captions_per_video)

    shown = {"rank 1": (1, 1), "rank 2": (2, 2), "rank 3–5": (3, 5), "rank 6": (6, 6)}
    for name, (low, high) in shown.items():
        percents = [100 * np.mean((ranks >= low) & (ranks <= high)) for ranks in both]
        assert re.findall(rf"<title>{name}: ([\d.]+) %", page) == [f"{p:.1f}" for p in percents]
    curves = re.findall(r'<polyline class="\w+" points="([^"]*)"', page)
    for curve, ranks in zip(curves, both, strict=True):
        heights = [float(point.split(",")[1]) for point in curve.split()]
        at_one, everywhere = charts.HEIGHT - charts.BOTTOM, charts.TOP
        share = (at_one - heights[0]) / (at_one - everywhere)
        assert share == pytest.approx(np.mean(ranks <= 1), abs=1e-3)
        assert len(heights) == 6 and heights[-1] == everywhere


def test_charts_of_a_large_split_stay_small():
    ranks = [np.arange(1, 60001), np.array([1.0, 59_999.5])]

    drawn = charts.histogram(ranks, 60_000) + charts.recalls(ranks, 60_000)

    assert len(drawn) < 20_000 and "50,001–60,000" in drawn
    assert sum(map(float, re.findall(r": ([\d.]+) %", drawn))) == pytest.approx(200, abs=0.5)
