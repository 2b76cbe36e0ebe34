"""The HTML report: one file that needs nothing else, with text that cannot become markup."""

import base64
import json
import re

import pytest
from PIL import Image

from xclip_jax import frames, report

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
