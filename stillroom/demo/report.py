"""The demo's figures: phases side by side, as JSON, as a table and as a picture."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from distill.evaluate import agreement_interval
from ledger.records import NANO
from ledger.requests import Usage
from router.comparators import same_text
from stillroom.demo.traffic import Reply

__all__ = ("Phase", "Report", "SliceFigures", "draw", "phase_of", "show", "write")

INK: Final = {"teacher": "#8a5a00", "student": "#0b6e4f", "line": "#444444"}


class SliceFigures(msgspec.Struct):
    """A phase's requests of one slice of the traffic."""

    requests: int
    teacher_share: float
    agreement: float
    accuracy: float
    accuracy_ci: list[float]


class Phase(msgspec.Struct):
    """One stretch of traffic. Money in currency units, shares between 0 and 1."""

    name: str
    requests: int
    failed: int
    teacher_share: float
    in_scope_teacher_share: float
    out_of_scope_teacher_share: float
    agreement: float
    accuracy: float
    accuracy_ci: list[float]
    in_scope_accuracy: float
    teacher_accuracy: float
    """The teacher's own accuracy on the same requests."""
    cost: float
    baseline_cost: float
    saving: float
    p50_ms: float
    p95_ms: float
    reasons: dict[str, int]
    slices: dict[str, SliceFigures] = {}
    """By the slice's name, where traffic shifts."""


class Report(msgspec.Struct):
    """``report.json``."""

    phases: list[Phase]
    student: dict[str, float]
    teacher: dict[str, float]
    train: dict[str, float]
    release: str
    rounds: list[dict[str, Any]]
    swaps: dict[str, int]
    seconds: float
    machine: dict[str, Any]
    notes: list[str]


ROWS: Final[dict[str, Callable[[Phase], str]]] = {
    "requests": lambda p: f"{p.requests:,}",
    "failed": lambda p: str(p.failed),
    "answered by the teacher": lambda p: f"{p.teacher_share:.1%}",
    "  of the out-of-scope ones": lambda p: f"{p.out_of_scope_teacher_share:.0%}",
    "agreement with the teacher": lambda p: f"{p.agreement:.1%}",
    "accuracy": lambda p: f"{p.accuracy:.1%}",
    "  95% interval": lambda p: f"{p.accuracy_ci[0]:.1%} to {p.accuracy_ci[1]:.1%}",
    "  the teacher's own": lambda p: f"{p.teacher_accuracy:.1%}",
    "cost": lambda p: f"{p.cost:.2f}",
    "  on the teacher alone": lambda p: f"{p.baseline_cost:.2f}",
    "saved": lambda p: f"{p.saving:.0%}",
    "p50, p95 in ms": lambda p: f"{p.p50_ms:.0f}, {p.p95_ms:.0f}",
}


def phase_of(name: str, replies: Sequence[Reply], teacher: Mapping[str, str], usage: Usage) -> Phase:
    """Measure a phase from what its client saw, what the teacher says to the same texts, and the ledger's sums."""
    answered = [reply for reply in replies if reply.error is None]
    right = [same_text(reply.answer, reply.request.label) for reply in answered]
    accuracy, low, high = agreement_interval(right)
    in_scope = [reply for reply in answered if reply.request.in_scope]
    out = [reply for reply in answered if not reply.request.in_scope]
    latencies = [reply.latency_ms for reply in answered]
    reasons: dict[str, int] = {}
    for reply in answered:
        reasons[f"{reply.route}/{reply.reason}"] = reasons.get(f"{reply.route}/{reply.reason}", 0) + 1
    return Phase(
        name=name,
        requests=len(replies),
        failed=len(replies) - len(answered),
        teacher_share=_share(reply.route == "teacher" for reply in answered),
        in_scope_teacher_share=_share(reply.route == "teacher" for reply in in_scope),
        out_of_scope_teacher_share=_share(reply.route == "teacher" for reply in out),
        agreement=_share(same_text(reply.answer, teacher[reply.request.text]) for reply in answered),
        accuracy=accuracy,
        accuracy_ci=[low, high],
        in_scope_accuracy=_share(same_text(reply.answer, reply.request.label) for reply in in_scope),
        teacher_accuracy=_share(same_text(teacher[reply.request.text], reply.request.label) for reply in answered),
        cost=usage.cost_nano / NANO,
        baseline_cost=usage.baseline_nano / NANO,
        saving=usage.saving,
        p50_ms=_quantile(latencies, 0.5),
        p95_ms=_quantile(latencies, 0.95),
        reasons=dict(sorted(reasons.items())),
        slices=_slices(answered, teacher),
    )


def _slices(answered: Sequence[Reply], teacher: Mapping[str, str]) -> dict[str, SliceFigures]:
    named: dict[str, list[Reply]] = {}
    for reply in answered:
        if reply.request.slice:
            named.setdefault(reply.request.slice, []).append(reply)
    figures: dict[str, SliceFigures] = {}
    for name, replies in sorted(named.items(), reverse=True):
        accuracy, low, high = agreement_interval([same_text(r.answer, r.request.label) for r in replies])
        figures[name] = SliceFigures(
            requests=len(replies),
            teacher_share=_share(reply.route == "teacher" for reply in replies),
            agreement=_share(same_text(reply.answer, teacher[reply.request.text]) for reply in replies),
            accuracy=accuracy,
            accuracy_ci=[low, high],
        )
    return figures


def _share(flags: Any) -> float:
    values = list(flags)
    return sum(values) / len(values) if values else 0.0


def _quantile(values: Sequence[float], q: float) -> float:
    return float(np.quantile(values, q)) if values else 0.0


def write(report: Report, folder: Path) -> None:
    """``report.json`` and ``report.png``."""
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    draw(report, folder / "report.png")


def show(report: Report, console: Console) -> None:
    """The table at the end of the demo: a column per phase."""
    table = Table(title="Before and after", box=None, header_style="bold", title_justify="left", pad_edge=False)
    table.add_column("")
    for phase in report.phases:
        table.add_column(phase.name, justify="right")
    for name, cell in ROWS.items():
        table.add_row(name, *(cell(phase) for phase in report.phases))
    for name in sorted({name for phase in report.phases for name in phase.slices}, reverse=True):
        table.add_row(
            f"{name} intents: to the teacher", *(_of(phase, name, "teacher_share") for phase in report.phases)
        )
        table.add_row("  accuracy", *(_of(phase, name, "accuracy") for phase in report.phases))
    console.print(table)
    student, teacher = report.student, report.teacher
    console.print(
        f"Student alone, in-scope test requests: {student['zero_shot_accuracy']:.1%} zero-shot, "
        f"{student['distilled_accuracy']:.1%} distilled; the teacher {teacher['in_scope_accuracy']:.1%}."
    )
    for note in report.notes:
        console.print(f"- {note}")


def _of(phase: Phase, name: str, figure: str) -> str:
    return f"{getattr(phase.slices[name], figure):.1%}" if name in phase.slices else ""


def draw(report: Report, path: Path) -> None:
    """Cost, teacher share and accuracy per phase, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [phase.name for phase in report.phases]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), constrained_layout=True)
    cost, share, accuracy = axes
    x = np.arange(len(names))
    per_thousand = [(1000 * p.cost / p.requests, 1000 * p.baseline_cost / p.requests) for p in report.phases]
    cost.bar(x - 0.2, [b for _, b in per_thousand], 0.4, color="#c9b99a", label="on the teacher alone")
    cost.bar(x + 0.2, [c for c, _ in per_thousand], 0.4, color=INK["student"], label="with Stillroom")
    for position, phase, (spent, _) in zip(x, report.phases, per_thousand, strict=True):
        cost.text(position + 0.2, spent, f"{-phase.saving:+.0%}" if phase.saving else "", ha="center", va="bottom")
    cost.set_title("Cost of 1,000 requests")
    cost.set_ylim(0, 1.25 * max(b for _, b in per_thousand))
    cost.legend(frameon=False, loc="upper center", ncols=2, fontsize=8)
    share.bar(x, [100 * p.teacher_share for p in report.phases], 0.5, color=INK["teacher"])
    for position, phase in zip(x, report.phases, strict=True):
        share.text(position, 100 * phase.teacher_share, f"{phase.teacher_share:.0%}", ha="center", va="bottom")
    share.set_title("Answered by the teacher, %")
    share.set_ylim(0, 112)
    low = [100 * (p.accuracy - p.accuracy_ci[0]) for p in report.phases]
    high = [100 * (p.accuracy_ci[1] - p.accuracy) for p in report.phases]
    points = [100 * p.accuracy for p in report.phases]
    accuracy.errorbar(x, points, [low, high], fmt="o", capsize=5, color=INK["student"], label="what clients got")
    own = [100 * p.teacher_accuracy for p in report.phases]
    accuracy.plot(x, own, "_", markersize=28, color=INK["teacher"], label="teacher on the same requests")
    accuracy.set_title("Accuracy against gold labels, % (95% interval)")
    accuracy.set_ylim(max(0, min(points + own) - 15), 101)
    accuracy.legend(frameon=False, loc="lower center", fontsize=8)
    for axis in axes:
        axis.set_xticks(x, names)
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
