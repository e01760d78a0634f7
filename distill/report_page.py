"""A report as one HTML page: it asks no other host for anything, runs no script, and prints."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from distill.pictures import Interval, curves, histogram, intervals
from ledger.records import NANO

__all__ = ("STYLE", "UNKNOWN", "document", "page", "section", "table")

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1d2433;--paper:#fff;--soft:#5b6475;--rule:#d5dae3;--tint:#f3f5f9;
--candidate:#0b63ce;--champion:#b45309;--slice:#5b6475;--good:#166534;--bad:#b42318}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9f0;--paper:#12161f;--soft:#a3acbd;--rule:#323a4a;--tint:#1a202c;
--candidate:#6aa9ff;--champion:#f0a45b;--slice:#a3acbd;--good:#5fd38d;--bad:#ff8a7a}}
@media print{:root{--ink:#000;--paper:#fff;--soft:#444;--rule:#bbb;--tint:#fff;--candidate:#0b63ce;--champion:#b45309;
--slice:#444;--good:#166534;--bad:#b42318}section{break-inside:avoid}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .4rem}p{margin:.3rem 0}.note{color:var(--soft)}
.good{color:var(--good)}.bad{color:var(--bad)}strong.good,strong.bad{text-transform:uppercase}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--rule)}
th.number,td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
svg{width:100%;height:auto;max-width:42rem;background:var(--tint);border-radius:6px}
svg text{font-size:12px;fill:var(--ink)}svg text.tick{fill:var(--soft)}
svg .grid,svg .axis{stroke:var(--rule)}svg .floor{stroke:var(--bad);stroke-dasharray:5 4}
svg .bar{stroke-width:4;stroke-linecap:round;opacity:.45}svg .line{fill:none;stroke-width:2.5}
svg circle.candidate,svg rect.candidate{fill:var(--candidate)}
svg circle.champion,svg rect.champion{fill:var(--champion)}
svg circle.slice{fill:var(--slice)}svg line.candidate,svg polyline.candidate{stroke:var(--candidate)}
svg line.champion,svg polyline.champion{stroke:var(--champion)}svg line.slice{stroke:var(--slice)}
.key{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.35em}
.key.candidate{background:var(--candidate)}.key.champion{background:var(--champion);margin-left:1.2em}
"""
MOST_SLICES: Final = 24
UNKNOWN: Final = "&mdash;"


def page(report: Mapping[str, Any]) -> str:
    """The page of a ``report.json``. What was said in the answers is not on it, so that it can be passed on."""
    sections = [
        section("Checks", _checks(report["checks"])),
        section("Agreement with the teacher", _agreement(report)),
        section("Thresholds", _thresholds(report)),
        section("Figures", _figures(report)),
        section("Times of answers", _times(report)),
        section("Slices", _slices(report["slices"])),
        section("Golden prompts and safety probes", _outcomes(report["candidate"])),
        section("Dataset and training", _made(report)),
    ]
    title = f"Evaluation of {report['release']}"
    return document(title, f"{_head(report, title)}{''.join(sections)}")


def document(title: str, body: str) -> str:
    """A page of such parts."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _head(report: Mapping[str, Any], title: str) -> str:
    passed = report["verdict"] == "passed"
    failed = [check for check in report["checks"] if not check["passed"]]
    why = "".join(f'<p class="bad">{escape(check["text"])}</p>' for check in failed)
    return (
        f'<h1>{escape(title)}</h1><p>The gate says: <strong class="{_colour(passed)}">{report["verdict"]}</strong>, '
        f"{len(report['checks']) - len(failed)} of {len(report['checks'])} checks hold, "
        f"{report['held_out']} held-out requests.</p>{why}"
        f'<p class="note">job {escape(str(report["job"]))}, parent {escape(str(report["parent"] or "none"))}</p>'
    )


def section(name: str, body: str) -> str:
    """A part of a page under its heading; nothing where it is empty."""
    return f"<section><h2>{escape(name)}</h2>{body}</section>" if body else ""


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            f'<span class="{_colour(check["passed"])}">{"holds" if check["passed"] else "fails"}</span>',
            f'{escape(check["name"])}<br><span class="note">{escape(check["text"])}</span>',
            _number(check["value"]),
            _number(check["bound"]),
        ]
        for check in checks
    ]
    return table(["", "rule", "#value", "#bound"], rows)


def _agreement(report: Mapping[str, Any]) -> str:
    sides = [(name, report[name]) for name in ("candidate", "champion") if report[name]]
    rows = [
        Interval(name, side["agreement_ci"][0], side["agreement"], side["agreement_ci"][1], name)
        for name, side in sides
    ]
    rows += [
        Interval(f"{part['name']} ({part['n']})", part["low"], part["agreed"] / part["n"], part["high"])
        for part in report["slices"][:MOST_SLICES]
    ]
    floors = (check["bound"] for check in report["checks"] if check["name"] == "agreement_floor")
    note = "The student alone, without its router. Bars: exact 95% intervals. Broken line: the floor."
    return f'<p class="note">{note}</p>{intervals(rows, next(floors, None))}'


def _thresholds(report: Mapping[str, Any]) -> str:
    named = [(name, report[name]["curve"]) for name in ("candidate", "champion") if report[name]]
    drawn = [(name, points) for name, points in named if len(points) > 1]
    if not drawn:
        return ""
    thresholds, way = report["thresholds"], report["router"]["whole"]
    chosen = (way["student_share"], way["agreement"]) if thresholds["feasible"] else None
    note = (
        '<p class="note">If the student answers so large a share of the requests, its surest first and by numbers of '
        "models that have not seen the request, and the teacher the others: how many answers agree. Broken line: the "
        "target. Point: the chosen thresholds, for whole answers.</p>"
    )
    return note + _key(drawn) + curves(drawn, thresholds["agreement_target"], chosen)


def _times(report: Mapping[str, Any]) -> str:
    named = [(name, report[name]["latencies_ms"]) for name in ("candidate", "champion") if report[name]]
    drawn = [(name, values) for name, values in named if values]
    if not drawn:
        return ""
    return f'<p class="note">The last bars hold what took longer.</p>{_key(drawn)}{histogram(drawn)}'


def _figures(report: Mapping[str, Any]) -> str:
    sides = [report[name] for name in ("candidate", "champion") if report[name]]
    rows = [
        [name, *(_number(_at(side, path), scale) for side in sides)]
        for name, path, scale in (
            ("agreement of the student alone", "agreement", 1),
            ("share that the student answers", "student_share", 1),
            ("expected cost of a request", "cost.expected", NANO if _is_priced(sides) else 1),
            ("perplexity of the teacher's answers", "fit.perplexity", 1),
            ("divergence from the teacher, at least, nats per token", "fit.kl", 1),
            ("share of refusals", "refusal_share", 1),
            ("median time of an answer, ms", "speed.p50_ms", 1),
            ("95th percentile, ms", "speed.p95_ms", 1),
            ("tokens per second", "speed.tokens_per_second", 1),
        )
    ]
    return table(["", "#candidate", "#champion"][: len(sides) + 1], rows)


def _is_priced(sides: Sequence[Mapping[str, Any]]) -> bool:
    return bool(_at(sides[0], "cost.is_priced"))


def _slices(slices: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            escape(part["name"]),
            _number(part["n"]),
            f"{part['agreed'] / part['n']:.1%}",
            f"{part['low']:.1%} to {part['high']:.1%}",
            *(_number(part[pairs]) for pairs in ("better", "worse") if part[pairs] is not None),
        ]
        for part in slices
    ]
    heads = ["slice", "#requests", "#agreement", "#95% interval", "#only candidate", "#only champion"]
    return table(heads[: len(rows[0])], rows) if rows else ""


def _outcomes(candidate: Mapping[str, Any]) -> str:
    found = [*(candidate["golden"] or ()), *(candidate["probes"] or ())]
    rows = [
        [
            f'<span class="{_colour(each["passed"])}">{"passes" if each["passed"] else "fails"}</span>',
            escape(each["name"]),
            escape(each["kind"]),
            "asks the teacher" if each["escalated"] else escape(each["why"]),
        ]
        for each in found
    ]
    return table(["", "prompt", "kind", ""], rows) if rows else ""


def _made(report: Mapping[str, Any]) -> str:
    """Single values of the manifest and of the training; what is deeper stands in the JSON."""
    pairs = [*report["dataset"].items(), *report["training"].items()]
    rows = [[escape(name.replace("_", " ")), _number(value)] for name, value in pairs if not _is_deep(value)]
    return table(["", "#"], rows)


def _is_deep(value: object) -> bool:
    return isinstance(value, dict | list)


def _at(side: Mapping[str, Any], path: str) -> Any:
    value: Any = side
    for name in path.split("."):
        value = value[name] if value else None
    return value


def _number(value: Any, scale: float = 1) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return UNKNOWN if value is None else escape(str(value))
    return str(value) if isinstance(value, int) and scale == 1 else f"{value / scale:.4g}"


def _colour(passed: bool) -> str:
    return "good" if passed else "bad"


def _key(named: Sequence[tuple[str, object]]) -> str:
    marks = (f'<span class="key {name}"></span>{name}' for name, _ in named)
    return f"<p>{''.join(marks)}</p>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already. A head that begins with ``#`` is of a column of numbers."""
    kinds = [' class="number"' if head.startswith("#") else "" for head in heads]
    top = "".join(f"<th{kind}>{escape(head.removeprefix('#'))}</th>" for kind, head in zip(kinds, heads, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
