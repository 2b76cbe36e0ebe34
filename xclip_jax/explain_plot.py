"""An explanation as one picture: frames, under them words x frames, and the parts as bars."""

import textwrap
import warnings
from pathlib import Path

import numpy as np

from xclip_jax.explain import Explanation
from xclip_jax.explain_grid import NOTE, Grid, Pair, bars, grid, headline

POSITIVE, NEGATIVE = "#1f5fa8", "#c2620e"
ROW, MARGIN = 0.24, 2.2  # inches of a word's row, and of what stands left of the cells
NUMBERED = 0.5  # inches of a cell from which it holds its number
PIXELS = 120  # an inch


def save(explanation: Explanation, pair: Pair, path: Path | str) -> None:
    """Writes the picture as PNG, whatever the file's name.

    Raises ValueError where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError(
            "a PNG needs matplotlib: pip install 'xclip_jax[build]', or give --out FILE.html."
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = grid(explanation, pair)
    columns = len(shown.columns) if shown else 1 + len(pair.frames)
    cell = min(max(14 / columns, 0.35), 0.95)
    panels = [("similarity", shown.similarity), ("attention", shown.attention)] if shown else []
    heights = [cell, *(ROW * len(values) for _, values in panels)]
    if explanation.parts:
        heights.append(0.35 * len(explanation.parts) + 0.2)
    width = MARGIN + max(cell * columns, 6) + 0.2
    title = textwrap.wrap(f"“{_plain(pair.text)}” in {_plain(pair.name)}", int(width * 10.5))
    notes = [headline(explanation), *textwrap.wrap(explanation.absent, int(width * 12))]
    notes += [NOTE] if shown else []
    lines = [*title[:3], *notes]
    tops = [0.35] + [0.58] * len(panels) + [0.5] * bool(explanation.parts)
    height = 0.4 + 0.24 * len(lines) + sum(heights) + sum(tops)
    figure = pyplot.figure(figsize=(width, height))

    def text(x, y, words, **style):
        figure.text(x / width, y / height, words, parse_math=False, **style)

    def axes(bottom, high, columns):
        size = (MARGIN / width, bottom / height, cell * columns / width, high / height)
        return figure.add_axes(size)

    y = height - 0.2
    for i, line in enumerate(lines):
        y -= 0.24
        bold = i < len(lines) - len(notes)
        text(0.2, y, line, size=11 if bold else 9.5, weight="bold" if bold else "normal")
    y -= tops[0] + cell
    first = 1 if shown else 0
    for i, image in enumerate(pair.frames):
        box = ((MARGIN + (first + i) * cell + 0.02) / width, y / height)
        place = figure.add_axes((*box, (cell - 0.04) / width, (cell - 0.04) / height))
        place.imshow(image, aspect="auto")
        place.axis("off")
    every = 1 if cell >= 0.5 else 2
    for i, time in list(enumerate(pair.times))[::every]:
        text(
            MARGIN + (first + i + 0.5) * cell, y + cell + 0.04, f"{time:.1f} s", ha="center", size=8
        )
    for (name, values), high, top in zip(panels, heights[1:], tops[1:], strict=False):
        y -= top + high
        _heat(
            axes(y, high, values.shape[1]), shown, values, name, len(pair.frames), cell >= NUMBERED
        )
        text(0.2, y + high + 0.26, _CAPTIONS[name](values), size=9)
    if explanation.parts:
        y -= tops[-1] + heights[-1]
        _bars(axes(y, heights[-1], max(columns * cell, 6) / cell * 0.5), explanation)
        text(0.2, y + heights[-1] + 0.06, "What each part adds to the score", size=9)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # words of any script
        figure.savefig(path, format="png", dpi=PIXELS)
    pyplot.close(figure)


def _similarity(values: np.ndarray) -> str:
    low, high = np.nanmin(values), np.nanmax(values)
    return (
        f"Similarity of each word and frame, before the scale: white {low:.2f} to dark {high:.2f}"
    )


def _attention(values: np.ndarray) -> str:
    negative = "; orange is negative" if np.nanmin(values) < -0.005 else ""
    return f"Weight that attention gives each of them, within its block of the three{negative}"


_CAPTIONS = {"similarity": _similarity, "attention": _attention}


def _heat(axes, shown: Grid, values: np.ndarray, name: str, count: int, numbered: bool) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("signed", [NEGATIVE, "white", POSITIVE])
    if name == "similarity":
        colors = LinearSegmentedColormap.from_list("plain", ["white", POSITIVE])
        low, high = np.nanmin(values), np.nanmax(values)
    else:
        high = np.nanmax(np.abs(values))
        low = -high
    axes.imshow(values, cmap=colors, vmin=low, vmax=max(high, low + 1e-6), aspect="auto")
    axes.set_xticks([])
    axes.set_yticks(range(len(values)), shown.rows[: len(values)], size=8)
    named = [0, *range(1 + count, values.shape[1])]  # the other columns have an image above
    for j in named:
        axes.text(j, -0.65, shown.columns[j], ha="center", va="bottom", size=8)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.tick_params(length=0)
    for place in (axes.axhline, axes.axvline):
        place(0.5, color="black", linewidth=1)
    axes.spines[:].set_visible(False)
    if not numbered:
        return
    for i, j in np.argwhere(np.isfinite(values)):
        if name == "attention" and abs(values[i, j]) < 0.005:
            continue
        dark = (values[i, j] - low) / max(high - low, 1e-6)
        dark = abs(2 * dark - 1) if name == "attention" else dark
        axes.text(
            j,
            i,
            f"{values[i, j]:.2f}",
            ha="center",
            va="center",
            size=7,
            color="white" if dark > 0.8 else "black",
        )


def _bars(axes, explanation: Explanation) -> None:
    rows = bars(explanation)
    points = [value for _, value, _ in rows]
    axes.barh(
        range(len(rows)),
        points,
        color=[POSITIVE if v >= 0 else NEGATIVE for v in points],
        height=0.7,
    )
    for i, (_, value, why) in enumerate(rows):
        axes.text(
            max(value, 0),
            i,
            f"  {value:+.2f} = {explanation.scale:.2f} × {why}",
            va="center",
            size=8,
        )
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], size=8)
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _plain(text: str) -> str:
    return " ".join(text.split())
