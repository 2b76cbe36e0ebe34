"""A self-contained HTML page about a trained run: loss curve, metrics, and answers as strips."""

import base64
import html
import io
import json
from pathlib import Path
from typing import NamedTuple

from xclip_jax import metrics

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --right: #2a9d5c; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
h1, h3, p { overflow-wrap: anywhere; }
pre { background: #8881; padding: .8rem 1rem; border-radius: .4rem; overflow-x: auto; }
.answer { display: flex; align-items: center; gap: .8rem; padding: .3rem; flex-wrap: wrap;
  border-left: .3rem solid transparent; }
.answer.right { border-color: var(--right); background: #2a9d5c1a; }
.strip { display: flex; gap: 2px; } .strip img { width: 64px; height: 64px; display: block; }
.facts { font-variant-numeric: tabular-nums; min-width: 13rem; }
.mark { color: var(--right); font-weight: 600; } .note { opacity: .7; }
figure { margin: 0; background: white; border-radius: .4rem; }
svg { max-width: 100%; height: auto; }
"""


class Answer(NamedTuple):
    """One clip found for a query: its frames as JPEG, and whether it is the right one."""

    video_id: str
    score: float
    frames: list[bytes]
    right: bool


def write(
    file: Path,
    *,
    title: str,
    summary: str,
    metrics_file: Path,
    scores: dict[str, float],
    answers: dict[str, list[Answer]],
) -> None:
    """Writes the page; it needs no other file and no network.

    Args:
      metrics_file: the run's metrics.jsonl, for the loss curve.
      answers: for each query the clips found, best first.
    """
    sections = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(summary)}</p>",
        f"<h2>Loss</h2><figure>{loss_curve(metrics_file)}</figure>",
        f"<h2>Retrieval</h2><pre>{html.escape(metrics.table(scores))}</pre>",
        "<h2>Queries</h2><p>The best clips for each sentence, time from left to right; the right"
        " one is marked. A clip called <em>twin</em> shows the same frames backwards.</p>",
    ]
    for query, found in answers.items():
        sections.append(f"<h3>“{html.escape(query)}”</h3>")
        sections += [_answer(rank, answer) for rank, answer in enumerate(found, 1)]
    file.write_text(page(title, sections), encoding="utf-8")


def page(title: str, sections: list[str], style: str = "") -> str:
    """Returns an HTML page of sections, which are markup already; the title is not."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style>{''.join(sections)}</html>"
    )


def picture(jpeg: bytes, alt: str = "") -> str:
    """Returns an image that lies within the page."""
    data = base64.b64encode(jpeg).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(alt)}">'


def loss_curve(metrics_file: Path) -> str:
    """Returns an SVG of the training loss over steps, with the reports as they were averaged."""
    from matplotlib.figure import Figure  # pyplot would change how a notebook draws

    lines = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    reports = [line for line in lines if "train/loss" in line]
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([r["step"] for r in reports], [r["train/loss"] for r in reports], color="#2463a6")
    axes.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    return stream.getvalue()[stream.getvalue().index("<svg") :]


def _answer(rank: int, answer: Answer) -> str:
    images = "".join(map(picture, answer.frames))
    mark = ' <span class="mark">✓ right</span>' if answer.right else ""
    return (
        f'<div class="answer{" right" if answer.right else ""}"><div class="facts">{rank}.'
        f' {html.escape(answer.video_id)} <span class="note">{answer.score:.2f}</span>{mark}</div>'
        f'<div class="strip">{images}</div></div>'
    )
