"""The charts and tables of the router's page: the curve, calibration, and how the scores are spread."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from dashboards import words
from dashboards.tables import COUNT, MONEY, SHARE, TEXT, Kind, Table
from ledger.records import NANO

__all__ = ("calibration", "choices_chart", "choices_table", "spread")

NUMBER: Final = Kind(lambda value: f"{value:.3f}", lambda value: value)
SPREAD: Final = (
    ("answered", "by the student"), ("abandoned", "abandoned"), ("kept", "to the teacher at once"),
    ("agreed", "label: agree"), ("differed", "label: differ"),
)  # fmt: skip


def choices_chart(choices: Sequence[Any], cost: Callable[[Any], int], target: float) -> dict[str, Any]:
    """For ops.js: agreement over a month's cost, or where nothing has a price over the teacher's share.

    Floats are for drawing only.
    """
    is_priced = any(cost(choice.point) for choice in choices)
    ranked = sorted(choices, key=lambda choice: choice.point.cost if is_priced else choice.point.teacher_share)
    points = [choice.point for choice in ranked]
    low = min(*(point.low for point in points), target)
    percent = [[_percent(getattr(point, name)) for point in points] for name in ("agreement", "low", "high")]
    now = [_percent(choice.point.agreement) if choice.in_force else None for choice in ranked]
    return {
        "x": [cost(point) / NANO if is_priced else _percent(point.teacher_share) for point in points],
        "x_name": "a month" if is_priced else "to the teacher, %",
        "y": {"min": math.floor(100 * low / 5) * 5, "max": 100, "unit": " %"},
        "series": [
            {"name": "agreement", "values": percent[0], "color": 1},
            {"name": "low (95 %)", "values": percent[1], "color": 6, "kind": "dashed"},
            {"name": "high (95 %)", "values": percent[2], "color": 6, "kind": "dashed"},
            {"name": "target", "values": [_percent(target)] * len(points), "color": 2, "kind": "dashed"},
            {"name": "in force", "values": now, "color": 4, "kind": "points"},
        ],
        "bands": [[3, 2]],
    }


def choices_table(choices: Sequence[Any], cost: Callable[[Any], int]) -> Table:
    """The points of the curve, from the laxest on."""
    columns = [
        ("hard", NUMBER), ("confident", NUMBER), ("at the end", NUMBER), ("to the teacher", SHARE),
        ("agreement", SHARE), ("from (95 %)", SHARE), ("to", SHARE), ("labels", COUNT), ("a month", MONEY),
        ("guarantee", TEXT),
    ]  # fmt: skip
    rows = [
        (p.hard, p.confident, p.confident_end, p.teacher_share, p.agreement, p.low, p.high, p.labels, cost(p),
         "holds" if choice.guaranteed else "none")
        for choice in choices for p in (choice.point,)
    ]  # fmt: skip
    return Table("curve", "What thresholds would do, from the laxest to the strictest", columns, rows)


def calibration(found: Any) -> dict[str, Any]:
    """Of the score and of the confidence."""
    return {
        "score": _calibration_chart(found.score),
        "score_table": _calibration_table("score", "Score and what came of it", found.score),
        "confidence": _calibration_chart(found.confidence) if found.confidence else None,
        "confidence_table": _calibration_table("confidence", "Confidence and what came of it", found.confidence),
    }


def spread(found: Any) -> dict[str, Any]:
    """How the scores are spread, by what became of the request and by its label."""
    kept = found.spread
    steps = len(kept.answered)
    edges = [round(i / steps, 4) for i in range(steps + 1)]

    def chart(names: Sequence[str]) -> dict[str, Any]:
        series = [
            {"name": dict(SPREAD)[name], "values": [*getattr(kept, name), getattr(kept, name)[-1]], "kind": "step"}
            for name in names
        ]
        return {"x": edges, "x_name": "score", "series": series}

    rows = [
        (f"{edges[i]:.2f} to {edges[i + 1]:.2f}", *(getattr(kept, name)[i] for name, _ in SPREAD))
        for i in range(steps)
    ]
    columns = [("score", TEXT), *((said, COUNT) for _, said in SPREAD)]
    return {
        "spread": chart(("answered", "abandoned", "kept")),
        "outcomes": chart(("agreed", "differed")) if found.report.labelled else None,
        "spread_table": Table("spread", "Requests by their score", columns, rows),
    }


def _calibration_chart(bins: Sequence[Any]) -> dict[str, Any]:
    """Observed over predicted, with the line on which a perfect router's points lie."""
    perfect = [0, *(_percent(each.predicted) for each in bins), 100]
    series: list[dict[str, Any]] = [{"name": "perfect", "values": perfect, "color": 6, "kind": "dashed"}]
    for name, kind, color in (("observed", "points", 1), ("low", "dashed", 3), ("high", "dashed", 3)):
        values = [None, *(_percent(getattr(each, name)) for each in bins), None]
        series.append(
            {"name": name if kind == "points" else f"{name} (95 %)", "values": values, "color": color, "kind": kind}
        )
    return {
        "x": perfect,
        "x_name": "predicted, %",
        "y": {"min": 0, "max": 100, "unit": " %"},
        "series": series,
        "bands": [[4, 3]],
    }


def _calibration_table(name: str, caption: str, bins: Sequence[Any]) -> Table:
    columns = [
        ("predicted", SHARE), ("observed", SHARE), ("from (95 %)", SHARE), ("to", SHARE), ("labels", COUNT),
        ("of the traffic", SHARE),
    ]  # fmt: skip
    rows = [(each.predicted, each.observed, each.low, each.high, each.labels, each.share) for each in bins]
    return Table(name, caption, columns, rows, f"No label has a {name} beside it. {words.NOTHING}")


def _percent(share: float) -> float:
    return round(100 * share, 3)
