"""Charts of ranks as SVG within a page, in its colours, light or dark; nothing to install."""

import html
import math

import numpy as np

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 240, 42, 12, 12, 38
STYLE = """
.charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
.chart { flex: 1 1 20rem; max-width: 30rem; } .chart svg { width: 100%; display: block; }
.chart text { fill: currentColor; font-size: 11px; } .chart line { stroke: #8886; }
.key { display: inline-block; margin-right: 1rem; }
.key::before { content: ""; display: inline-block; width: .8rem; height: .8rem;
  margin-right: .4rem; background: currentColor; border-radius: 2px; vertical-align: -.05rem; }
.first { --mark: #2f74c9; } .second { --mark: #d9761a; }
.key.first, .key.second { color: var(--mark); }
.chart rect { fill: var(--mark); } .chart polyline { stroke: var(--mark); fill: none;
  stroke-width: 2; }
"""
_CLASSES = ("first", "second")


def keys(names: list[str]) -> str:
    """Returns what the colours of two series mean."""
    pairs = zip(_CLASSES, names, strict=True)
    return "".join(f'<span class="key {mark}">{html.escape(name)}</span>' for mark, name in pairs)


def recalls(series: list[np.ndarray], most: int) -> str:
    """Returns the curves of the share of ranks at or below k, for k from 1 to `most`."""
    shown = np.unique(np.geomspace(1, max(most, 2), 120).round().astype(int))
    span = math.log(shown[-1])

    def place(k: int, share: float) -> tuple[float, float]:
        return _x(math.log(k) / span), _y(share)

    marks = []
    for mark, ranks in zip(_CLASSES, series, strict=True):
        ordered = np.sort(ranks)
        shares = np.searchsorted(ordered, shown, side="right") / len(ordered)
        points = (place(k, share) for k, share in zip(shown, shares, strict=True))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        marks.append(f'<polyline class="{mark}" points="{path}"/>')
    ticks = [k for power in range(7) for k in (10**power, 2 * 10**power, 5 * 10**power)]
    ticks = [k for k in ticks if k <= shown[-1]]
    labels = [(_x(math.log(k) / span), f"{k:,}") for k in ticks[:: 1 + len(ticks) // 10]]
    return _chart("R@k: right answer among the first k, in percent", labels, marks, "k", 1.0, 0.2)


def histogram(series: list[np.ndarray], most: int) -> str:
    """Returns the shares of ranks in steps that grow; a rank between two counts as the worse."""
    ends = [k for power in range(7) for k in (10**power, 2 * 10**power, 5 * 10**power)]
    ends = [k for k in ends if k < most] + [most]
    starts = [1, *(end + 1 for end in ends[:-1])]
    names = [
        f"{end:,}" if start == end else f"{start:,}–{end:,}"
        for start, end in zip(starts, ends, strict=True)
    ]
    shares = [
        np.bincount(np.searchsorted(ends, ranks), minlength=len(ends))[: len(ends)] / len(ranks)
        for ranks in series
    ]
    high = float(np.max(shares))
    tick = next(size for size in (0.02, 0.05, 0.1, 0.2) if high <= 5 * size)
    top = tick * max(math.ceil(high / tick - 1e-9), 1)
    step = (WIDTH - LEFT - RIGHT) / len(ends)
    marks = []
    for j, (mark, values) in enumerate(zip(_CLASSES, shares, strict=True)):
        for i, value in enumerate(values):
            y = _y(value / top)
            marks.append(
                f'<rect class="{mark}" x="{LEFT + (i + 0.1 + 0.4 * j) * step:.1f}" y="{y:.1f}"'
                f' width="{0.4 * step:.1f}" height="{_y(0) - y:.1f}">'
                f"<title>rank {names[i]}: {100 * value:.1f} %</title></rect>"
            )
    labels = [(LEFT + (i + 0.5) * step, name) for i, name in enumerate(names)]
    return _chart(
        "Rank of the right answer, in percent of queries", labels, marks, "rank", top, tick
    )


def _chart(
    title: str,
    labels: list[tuple[float, str]],
    marks: list[str],
    axis: str,
    top: float,
    tick: float,
) -> str:
    """Returns a chart whose vertical axis goes from 0 to `top` in steps of `tick`."""
    lines = []
    for share in np.arange(0, top + tick / 2, tick):
        y = _y(share / top)
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f}</text>'
        )
    y = HEIGHT - BOTTOM + 14
    # Names too long to stand side by side lean.
    crowded = max(len(name) for _, name in labels) * 6.2 > (WIDTH - LEFT - RIGHT) / len(labels)
    for x, name in labels:
        lean = f' transform="rotate(-30 {x:.1f} {y})" text-anchor="end"' if crowded else ""
        anchor = lean or ' text-anchor="middle"'
        lines.append(f'<text x="{x:.1f}" y="{y}"{anchor}>{name}</text>')
    place = f'x="{LEFT - 6}" y="{y + 9}" text-anchor="end"'  # left of the names, some of which lean
    lines.append(f"<text {place}>{axis}</text>")
    return (
        f'<div class="chart"><h3>{html.escape(title)}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' role="img" aria-label="{html.escape(title)}">{"".join(lines + marks)}</svg></div>'
    )


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
