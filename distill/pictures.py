"""Pictures of a report as inline SVG: coloured by the page's own classes, so that they follow its light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

__all__ = ("HEIGHT", "MARGIN", "WIDTH", "Interval", "axes", "curves", "histogram", "intervals", "line", "svg", "text")

WIDTH: Final = 680
LABELS: Final = 210
"""Pixels of the names at the left of `intervals`."""
ROW: Final = 26
MARGIN: Final = 44
HEIGHT: Final = 300
MAX_BINS: Final = 24
STEPS: Final = (0.01, 0.025, 0.05, 0.1, 0.25)
"""Between the lines of an axis of shares that ends at 1."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A share with its interval; ``style`` is the class it is coloured by: candidate, champion or slice."""

    name: str
    low: float
    value: float
    high: float
    style: str = "slice"


def intervals(rows: Sequence[Interval], floor: float | None = None) -> str:
    """Shares as points on bars, one row each, on an axis from 0 to 100%; a broken line marks the floor."""
    height, right = ROW * len(rows) + 40, WIDTH - 60

    def x(share: float) -> float:
        return LABELS + share * (right - LABELS)

    parts = [line(x(tick / 4), 8, x(tick / 4), height - 26, "grid") for tick in range(5)]
    parts += [text(x(tick / 4), height - 8, f"{tick * 25}%", "tick", "middle") for tick in range(5)]
    for at, row in enumerate(rows):
        y = 20 + ROW * at
        parts += [
            text(LABELS - 10, y + 4, _short(row.name), row.style, "end"),
            line(x(row.low), y, x(row.high), y, f"bar {row.style}"),
            f'<circle class="{row.style}" cx="{x(row.value):.1f}" cy="{y}" r="5"/>',
            text(right + 8, y + 4, f"{row.value:.1%}", "tick", "start"),
        ]
    if floor is not None:
        parts.append(line(x(floor), 8, x(floor), height - 26, "floor"))
    return svg(height, parts, "Agreement with 95% intervals")


def curves(
    named: Sequence[tuple[str, Sequence[Sequence[float]]]], target: float, chosen: tuple[float, float] | None
) -> str:
    """Agreement of the system over the student's share, a line for each curve, and the point that was chosen."""
    lowest = min([target, *(point[1] for _, points in named for point in points)])
    step = next((step for step in STEPS if 1 - 4 * step <= lowest), STEPS[-1])
    bottom = 1 - 4 * step

    def at(share: float, agreement: float) -> tuple[float, float]:
        inside = (agreement - bottom) / (1 - bottom)
        return MARGIN + share * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - inside * (HEIGHT - 2 * MARGIN)

    parts = axes([(at(tick / 4, bottom)[0], f"{tick * 25}%") for tick in range(5)])
    for tick in range(5):
        value = bottom + step * tick
        parts.append(line(MARGIN, at(0, value)[1], WIDTH - MARGIN, at(0, value)[1], "grid"))
        parts.append(text(MARGIN - 6, at(0, value)[1] + 4, f"{100 * value:g}%", "tick", "end"))
    parts.append(line(MARGIN, at(0, target)[1], WIDTH - MARGIN, at(0, target)[1], "floor"))
    for style, points in named:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline class="line {style}" points="{path}"/>')
    if chosen is not None:
        x, y = at(*chosen)
        parts.append(f'<circle class="candidate" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
    return svg(HEIGHT, parts, "Agreement over the share that the student answers")


def histogram(named: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Counts of milliseconds, a row of bars for each named sample in one set of bins up to the 99th percentile."""
    pooled = sorted(value for _, values in named for value in values)
    top = pooled[min(len(pooled) - 1, int(0.99 * len(pooled)))] or 1.0
    bins = min(MAX_BINS, max(4, len(pooled) // 8))
    counted = [(style, _counts(values, top, bins), len(values)) for style, values in named if values]
    highest = max(count / of for _, counts, of in counted for count in counts)
    slot = (WIDTH - 2 * MARGIN) / bins
    parts = axes([(MARGIN + tick / 4 * (WIDTH - 2 * MARGIN), f"{top * tick / 4:.0f} ms") for tick in range(5)])
    for side, (style, counts, of) in enumerate(counted):
        thick = (slot - 2) / len(counted)
        for at, count in enumerate(counts):
            tall = (HEIGHT - 2 * MARGIN) * count / of / highest
            x, y = MARGIN + at * slot + side * thick, HEIGHT - MARGIN - tall
            parts.append(f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{thick:.1f}" height="{tall:.1f}"/>')
    return svg(HEIGHT, parts, "Times of whole answers")


def _counts(values: Sequence[float], top: float, bins: int) -> list[int]:
    """How many fall in each bin; what is over the top belongs to the last one."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(value / top * bins))] += 1
    return counts


def axes(ticks: Sequence[tuple[float, str]]) -> list[str]:
    """The axis at the foot of a picture, with words at some places."""
    base = HEIGHT - MARGIN
    return [line(MARGIN, base, WIDTH - MARGIN, base, "axis")] + [
        text(x, base + 18, label, "tick", "middle") for x, label in ticks
    ]


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """A straight line."""
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    """Words at a place."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def svg(height: float, parts: Sequence[str], title: str) -> str:
    """A picture of its parts."""
    # the title is what a screen reader says; the numbers stand in the tables
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"
