"""An explanation as a self-contained HTML page: no script, no other file, light and dark."""

import html
from pathlib import Path

import numpy as np
from PIL import Image

from xclip_jax import frames, report
from xclip_jax.explain.breakdown import Explanation
from xclip_jax.explain.grid import NOTE, VISIBLE, Grid, Pair, bars, grid, heading, headline

SIDE = 96  # pixels of a frame on the page, which shows it at half of that or more
_STYLE = """
:root { --cell: 20 88 184; --minus: 200 96 10; }
.wide { overflow-x: auto; }
table.grid { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
.grid th, .grid td { min-width: 3.4rem; padding: .15rem .2rem; text-align: center;
  font-weight: normal; }
.grid tbody th:not(.caption), .grid thead th:first-child { position: sticky; left: 0;
  background: Canvas; text-align: right; padding-right: .6rem; white-space: nowrap;
  max-width: 9rem; overflow: hidden; text-overflow: ellipsis; }
.grid img { width: 100%; min-width: 3.2rem; max-width: 5rem; display: block; margin: auto; }
.grid .caption { text-align: left; padding: 1rem 0 .3rem; }
.grid .caption span { position: sticky; left: 0; display: inline-block; max-width: 88vw; }
.grid .whole > *, .grid tr > .whole { border: 0 solid CanvasText; }
.grid tr.whole td { border-bottom-width: 1px; } .grid tr td.whole { border-right-width: 1px; }
.bars { display: grid; grid-template-columns: max-content 1fr; gap: .4rem .8rem; font-size: 13px; }
.bars .track { position: relative; } .bars i { display: block; height: .8rem; }
"""


def write(explanation: Explanation, pair: Pair, path: Path | str) -> None:
    """Writes the page."""
    title = heading(pair)
    sections = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(headline(explanation))}</p>",
        f"<p>{html.escape(explanation.absent)}</p>" if explanation.absent else "",
    ]
    if explanation.parts:
        sections.append(f"<h2>What each part adds to the score</h2>{_bars(explanation)}")
    images = [_jpeg(image) for image in pair.frames]
    shown = grid(explanation, pair)
    what = "Words and frames" if shown else "Frames"
    sections.append(
        f'<h2>{what}</h2><div class="wide"><table class="grid">{_head(pair, images, shown)}'
    )
    if shown:
        sections += [_similarity(shown), _attention(shown)]
    sections.append("</table></div>")
    sections.append(f'<p class="note">{html.escape(NOTE)}</p>' if shown else "")
    Path(path).write_text(report.page(title, sections, _STYLE), encoding="utf-8")


def _bars(explanation: Explanation) -> str:
    rows = bars(explanation)
    low = min(0.0, *(value for _, value, _ in rows))
    span = max(0.0, *(value for _, value, _ in rows)) - low or 1
    cells = []
    for name, value, why in rows:
        color = "cell" if value >= 0 else "minus"
        left, width = 100 * (min(value, 0) - low) / span, 100 * abs(value) / span
        cells.append(
            f"<span>{html.escape(name)}</span>"
            f'<div class="track"><i style="margin-left:{left:.1f}%;width:{width:.1f}%;'
            f'background:rgb(var(--{color}))"></i>{value:+.2f} <span class="note">='
            f" {explanation.scale:.2f} × {html.escape(why)}</span></div>"
        )
    return f'<div class="bars">{"".join(cells)}</div>'


def _head(pair: Pair, images: list[bytes], shown: Grid | None) -> str:
    cells = ["<th></th>"]
    cells += ["<th>whole video</th>"] if shown else []
    for image, time in zip(images, pair.times, strict=True):
        cells.append(f"<th>{report.picture(image, f'frame at {time:.1f} s')}{time:.1f} s</th>")
    cells += [f"<th>{name}</th>" for name in (shown.columns[1 + len(images) :] if shown else [])]
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _similarity(shown: Grid) -> str:
    low, high = np.nanmin(shown.similarity), np.nanmax(shown.similarity)
    caption = f"Similarity, before the scale: pale {low:.2f} to full {high:.2f}"
    depth = (shown.similarity - low) / max(high - low, 1e-6)
    return _body(caption, shown, shown.similarity, depth)


def _attention(shown: Grid) -> str:
    caption = "Weight that attention gives each of them, within its block of the three"
    if np.nanmin(shown.attention) <= -VISIBLE:
        caption += "; orange is negative"
    hidden = np.where(np.abs(shown.attention) < VISIBLE, 0, shown.attention)
    return _body(caption, shown, hidden, hidden / max(np.nanmax(np.abs(hidden)), 1e-6))


def _body(caption: str, shown: Grid, values: np.ndarray, depth: np.ndarray) -> str:
    """Returns the rows of one table body; `depth` from -1 to 1 is the strength of the colour."""
    count = 1 + len(shown.columns)
    rows = [
        f'<tr><th class="caption" colspan="{count}"><span>{html.escape(caption)}</span></th></tr>'
    ]
    for i, label in enumerate(shown.rows[: len(values)]):
        cells = [f'<th title="{html.escape(label)}">{html.escape(label)}</th>']
        for j, (value, strength) in enumerate(zip(values[i], depth[i], strict=True)):
            place = ' class="whole"' if j == 0 else ""
            if np.isnan(value) or not value:
                cells.append(f"<td{place}></td>")
                continue
            color = "cell" if strength >= 0 else "minus"
            style = f"background:rgb(var(--{color})/{0.85 * abs(strength):.2f})"
            dark = ";color:white" if abs(strength) > 0.8 else ""
            cells.append(f'<td{place} style="{style}{dark}">{value:.2f}</td>')
        whole = ' class="whole"' if i == 0 else ""
        rows.append(f"<tr{whole}>{''.join(cells)}</tr>")
    return f"<tbody>{''.join(rows)}</tbody>"


def _jpeg(image: Image.Image) -> bytes:
    return frames.encode_jpeg(frames.resize_short_side(image, SIDE))
