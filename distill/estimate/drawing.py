"""The pictures of an estimate, as inline SVG in the colours of the report's page."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from distill.estimate.findings import Beyond, Point
from distill.pictures import HEIGHT, MARGIN, WIDTH, axes, line, svg, text

__all__ = ("bars", "growth")

LABELS: Final = 6
"""Words below a row of bars, at most."""
NEAR: Final = 0.08
"""Of the width: ticks that are nearer leave the second one out."""


def growth(points: Sequence[Point], beyond: Sequence[Beyond]) -> str:
    """The share that is moved over the number of answers, on a logarithmic axis, with its intervals; and the band in
    which it may go on.
    """
    numbers = [each.answers for each in (*points, *beyond)]
    low, high = math.log(numbers[0]), math.log(max(numbers[-1], numbers[0] + 1))

    def at(answers: int, share: float) -> tuple[float, float]:
        inside = (math.log(answers) - low) / (high - low)
        return MARGIN + inside * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)

    parts = axes(_ticks([(at(n, 0)[0], f"{n:,}") for n in numbers]))
    for tick in range(5):
        y = at(numbers[0], tick / 4)[1]
        parts += [line(MARGIN, y, WIDTH - MARGIN, y, "grid"), text(MARGIN - 6, y + 4, f"{25 * tick}%", "tick", "end")]
    if beyond:
        edge = [(points[-1].answers, points[-1].ends), *((each.answers, each.ends) for each in beyond)]
        around = [at(n, ends[1]) for n, ends in edge] + [at(n, ends[0]) for n, ends in reversed(edge)]
        parts.append(f'<polygon class="beyond" points="{_path(around)}"/>')
    for style, values in (
        ("champion", [at(each.answers, each.alone) for each in points]),
        ("candidate", [at(each.answers, each.moved) for each in points]),
    ):
        parts.append(f'<polyline class="line {style}" points="{_path(values)}"/>')
    for each in points:
        x, y = at(each.answers, each.moved)
        ends = [at(each.answers, end)[1] for end in each.ends]
        parts.append(line(x, ends[0], x, ends[1], "bar candidate"))
        parts.append(f'<circle class="candidate" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    return svg(HEIGHT, parts, "Share that the proxy may answer over the number of answers")


def bars(values: Sequence[float], names: Sequence[str], title: str) -> str:
    """A row of bars from zero on, some of them named, and the highest one's value."""
    tall, highest = HEIGHT / 2, max(*values, 0.0) or 1.0
    foot, slot = tall - 26, (WIDTH - 2 * MARGIN) / len(values)
    parts = [
        line(MARGIN, foot, WIDTH - MARGIN, foot, "axis"),
        text(MARGIN - 6, 18, _short(highest), "tick", "end"),
        line(MARGIN, 14, WIDTH - MARGIN, 14, "grid"),
    ]
    for at, value in enumerate(values):
        height = (foot - 14) * value / highest
        parts.append(
            f'<rect class="candidate" x="{MARGIN + at * slot + slot * 0.08:.1f}" y="{foot - height:.1f}" '
            f'width="{slot * 0.84:.1f}" height="{height:.1f}"/>'
        )
    step = -(-len(names) // LABELS) if len(names) > 2 * LABELS else 1
    named = range(0, len(names), step)
    parts += [text(MARGIN + (at + 0.5) * slot, tall - 8, names[at], "tick", "middle") for at in named]
    return svg(tall, parts, title)


def _ticks(found: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Without those that would stand in each other's way."""
    kept = list(found[:1])
    kept += [tick for before, tick in pairwise(found) if tick[0] - before[0] > NEAR * WIDTH]
    return kept


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
