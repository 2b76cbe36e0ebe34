"""An evaluation as a self-contained HTML page: ranks, recalls, and the worst failures as strips."""

import html
from pathlib import Path

import numpy as np
from PIL import Image

from xclip_jax import charts, frames, metrics, report
from xclip_jax.records import Record, Shards

WORST = 20  # failures shown, of as many videos: the page stays below some MB for any split
SHOWN, SIDE = 6, 72  # frames of a video; pixels of a side
LETTERS = 300  # of a caption
_STYLE = """
.query { margin-top: 1.8rem; } .query h3 { font-size: 1rem; margin: 0 0 .2rem; }
.answer .strip { flex-wrap: wrap; } h3 { font-size: 1rem; }
.answer .facts { width: 19rem; overflow-wrap: anywhere; }
"""


def write(
    file: Path,
    title: str,
    protocol: list[str],
    table: str,
    scores: np.ndarray,
    shards: Shards,
    *,
    ties: str,
) -> None:
    """Writes the page; it needs no other file and no network.

    Args:
      protocol: lines that say what the numbers stand for.
      table: of the metrics, as it is printed.
      scores: [T, V] of the captions and videos of `shards`, in their order; rows and columns after
        them, those of twins, are left out.
    """
    counts = np.asarray(shards.captions_per_video)
    scores = scores[: counts.sum(), : len(counts)]
    both = list(metrics.both_ranks(scores, counts, ties=ties))
    names = list(metrics.DIRECTIONS.values())
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        *(f'<p class="note">{html.escape(line)}</p>' for line in protocol),
        f"<pre>{html.escape(table)}</pre>",
        f"<h2>Ranks among {len(counts):,} videos</h2><p>{charts.keys(names)}</p>",
        f'<div class="charts">{charts.histogram(both, len(counts))}'
        f"{charts.recalls(both, len(counts))}</div>",
        *_failures(scores, shards),
    ]
    file.write_text(report.page(title, sections, charts.STYLE + _STYLE), encoding="utf-8")


def worst(scores: np.ndarray, counts: np.ndarray, count: int) -> list[tuple[int, int, int, float]]:
    """Returns the captions with the worst ranks, at most one of each video and none that came
    first: (caption, its video, the video that won, rank)."""
    own = np.repeat(np.arange(len(counts)), counts)
    ranks = metrics.ranks(scores, own, ties="average")
    found, seen = [], set()
    for i in np.argsort(-ranks, kind="stable"):
        if ranks[i] <= 1 or len(found) == count:
            break
        if own[i] in seen:
            continue
        seen.add(own[i])
        others = np.delete(np.arange(len(counts)), own[i])
        winner = others[scores[i, others].argmax()]
        found.append((int(i), int(own[i]), int(winner), float(ranks[i])))
    return found


def _failures(scores: np.ndarray, shards: Shards) -> list[str]:
    counts = np.asarray(shards.captions_per_video)
    first = np.cumsum(counts) - counts
    found = worst(scores, counts, WORST)
    if not found:
        return ["<h2>Failures</h2><p>None: every caption finds its video first.</p>"]
    sections = [
        "<h2>Worst failures</h2><p>The captions whose own video is ranked last, at most one of each"
        " video: the query, its own clip, and the clip that won; frames from left to right.</p>"
    ]
    for caption, own, winner, rank in found:
        record = shards[own]
        text = record.captions[caption - first[own]]
        text = text if len(text) <= LETTERS else text[: LETTERS - 4] + " ..."
        sections.append(
            f'<div class="query"><h3>“{html.escape(text)}”</h3>'
            f"{_row(f'rank {rank:g}', record, scores[caption, own], own=True)}"
            f"{_row('came first', shards[winner], scores[caption, winner], own=False)}</div>"
        )
    return sections


def _row(place: str, record: Record, score: float, *, own: bool) -> str:
    images = []
    for i in frames.choose(len(record.frames), SHOWN):
        square = frames.to_square(frames.decode_jpeg(record.frames[i]), SIDE)
        alt = f"frame at {record.timestamps[i]:.1f} s"
        images.append(report.picture(frames.encode_jpeg(Image.fromarray(square)), alt))
    mark = ' <span class="mark">✓ its own</span>' if own else ""
    return (
        f'<div class="answer{" right" if own else ""}"><div class="facts">{place}:'
        f' {html.escape(record.video_id)} <span class="note">{score:.2f}</span>{mark}</div>'
        f'<div class="strip">{"".join(images)}</div></div>'
    )
