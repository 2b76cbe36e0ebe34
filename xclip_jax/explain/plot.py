"""An explanation as one picture: frames, under them words x frames, and the parts as bars."""

import textwrap
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xclip_jax.explain.breakdown import Explanation
from xclip_jax.explain.grid import NOTE, VISIBLE, Grid, Pair, bars, grid, heading, headline

POSITIVE, NEGATIVE = "#1f5fa8", "#c2620e"
# All in inches: a line of text, a row of words, a bar, what stands left of the cells, the border.
LINE, ROW, BAR, MARGIN, BORDER = 0.24, 0.24, 0.35, 2.2, 0.2
CELL = (0.35, 0.95, 14)  # least and most width of a frame, and of all of them if that can be
NUMBERED = 0.5  # width of a cell from which it holds its number
PIXELS = 120  # an inch


class _Sheet(NamedTuple):
    """A figure in inches from its left and upper edge."""

    figure: object
    width: float
    height: float

    def text(self, x: float, y: float, words: str, **style) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, words, parse_math=False, **style)

    def axes(self, x: float, y: float, width: float, height: float):
        size = (width / self.width, height / self.height)
        return self.figure.add_axes((x / self.width, 1 - (y + height) / self.height, *size))


def require() -> None:
    """Raises ValueError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError(
            "a PNG needs matplotlib: pip install 'xclip_jax[build]', or give --out FILE.html."
        ) from None


def save(explanation: Explanation, pair: Pair, path: Path | str) -> None:
    """Writes the picture as PNG, whatever the file's name."""
    require()
    from matplotlib.figure import Figure  # pyplot would change how a notebook draws

    shown = grid(explanation, pair)
    columns = len(shown.columns) if shown else 1 + len(pair.frames)
    cell = min(max(CELL[2] / columns, CELL[0]), CELL[1])
    width = MARGIN + max(cell * columns, 6) + BORDER
    title, notes = _lines(explanation, pair, width, shown)
    # Each block of the picture: how high it is, and the room above it.
    blocks = {"title": (LINE * len(title + notes), BORDER), "strip": (cell, 0.4)}
    if shown:
        blocks["similarity"] = (ROW * len(shown.similarity), 0.58)
        blocks["attention"] = (ROW * len(shown.attention), 0.58)
    if explanation.parts:
        blocks["bars"] = (BAR * len(explanation.parts), 0.5)
    height = sum(map(sum, blocks.values())) + BORDER
    figure = Figure(figsize=(width, height))
    sheet, y = _Sheet(figure, width, height), 0.0
    for name, (high, room) in blocks.items():
        y += room
        match name:
            case "title":
                for i, line in enumerate(title + notes):
                    style = {"size": 9.5} if i >= len(title) else {"size": 11, "weight": "bold"}
                    sheet.text(BORDER, y + (i + 0.8) * LINE, line, **style)
            case "strip":
                _strip(sheet, y, cell, pair, MARGIN + cell * bool(shown))
            case "bars":
                sheet.text(BORDER, y - 0.06, "What each part adds to the score", size=9)
                _bars(sheet.axes(MARGIN, y, (width - MARGIN) / 2, high), explanation)
            case _:
                values = getattr(shown, name)
                sheet.text(BORDER, y - 0.26, _CAPTIONS[name](values), size=9)
                axes = sheet.axes(MARGIN, y, cell * values.shape[1], high)
                _heat(axes, shown, name, images=len(pair.frames), numbered=cell >= NUMBERED)
        y += high
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # words of any script
        figure.savefig(path, format="png", dpi=PIXELS)


def _lines(
    explanation: Explanation, pair: Pair, width: float, shown: Grid | None
) -> tuple[list[str], list[str]]:
    title = textwrap.wrap(heading(pair), int(width * 10.5))
    notes = [headline(explanation), *textwrap.wrap(explanation.absent, int(width * 12))]
    return title, notes + ([NOTE] if shown else [])


def _strip(sheet: _Sheet, y: float, cell: float, pair: Pair, left: float) -> None:
    every = 1 if cell >= NUMBERED else 2
    for i, (image, time) in enumerate(zip(pair.frames, pair.times, strict=True)):
        x = left + i * cell
        axes = sheet.axes(x + 0.02, y, cell - 0.04, cell - 0.04)
        axes.imshow(image, aspect="auto")
        axes.axis("off")
        if i % every == 0:
            sheet.text(x + cell / 2, y - 0.06, f"{time:.1f} s", ha="center", size=8)


def _similarity(values: np.ndarray) -> str:
    low, high = np.nanmin(values), np.nanmax(values)
    return (
        f"Similarity of each word and frame, before the scale: white {low:.2f} to dark {high:.2f}"
    )


def _attention(values: np.ndarray) -> str:
    negative = "; orange is negative" if np.nanmin(values) <= -VISIBLE else ""
    return f"Weight that attention gives each of them, within its block of the three{negative}"


_CAPTIONS = {"similarity": _similarity, "attention": _attention}


def _heat(axes, shown: Grid, name: str, *, images: int, numbered: bool) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    values = getattr(shown, name)
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
    for j in (0, *range(1 + images, values.shape[1])):  # the other columns have an image above
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
        if name == "attention" and abs(values[i, j]) < VISIBLE:
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
