"""``router evaluate`` without a table, from the ledger; and ``router explain``: why a request took its route."""

from pathlib import Path
from typing import Any, Final

import msgspec
import rich_click as click

from ledger import labels, releases, requests
from ledger.labels import Label
from ledger.records import NANO
from ledger.rollups import DAY_MS
from ledger.store import now_ms
from router.estimators import Point, Prices
from router.explain import Background, Explanation, explain, explain_text
from router.log_report import Asked, LogReport, log_report, router_of
from router.policy import Capabilities
from stillroom.commands.common import CommandFailed, as_json, ledger_of, settings_of, show_rows
from stillroom.settings import Settings

__all__ = ("evaluate_log", "explain_command")

SHOWN: Final = 11
"""Points of the curve in the table; the JSON has them all."""


def evaluate_log(context: click.Context, as_json: bool, since_days: float = 30.0, plot: Path | None = None) -> None:
    """Print what the router is worth by the ledger's labels, and what other thresholds would be.

    Raises `CommandFailed` where there is nothing to say it from.
    """
    settings = settings_of(context)
    since = max(0, now_ms() - int(since_days * DAY_MS))
    prices = Prices(settings.student.price, settings.teacher.price)
    report = log_report(ledger_of(context), Asked(prices, settings.release_cache, since))
    if not report.requests:
        raise CommandFailed(
            f"the router decided on no request of {report.release or 'any release'} in the last {since_days:g} days "
            "whose content is kept; to judge it on a table of prompts, give --dataset"
        )
    if plot is not None:
        _draw(report, plot)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        _show(report)


@click.command("explain")
@click.argument("request_id", required=False)
@click.option("--text", help="Instead of a request: what would be decided now of a request of this text.")
@as_json
@click.pass_context
def explain_command(context: click.Context, request_id: str | None, text: str | None, as_json: bool) -> None:
    """Say why a request took its route."""
    if (request_id is None) == (text is None):
        raise click.UsageError("give a request's id, or --text.", context)
    store, settings = ledger_of(context), settings_of(context)
    if text is not None:
        champion = releases.live(store)
        router = router_of(store, champion.id if champion else None, settings.release_cache)
        _show_explanation(explain_text(text, router, _capabilities(settings)), [], as_json)
        return
    found = requests.get(store, str(request_id))
    if found is None:
        raise CommandFailed(f"there is no request {request_id!r} in the ledger (yet)")
    row, content = found
    router = router_of(store, row["release_id"], settings.release_cache)
    background = Background(router, _capabilities(settings))
    _show_explanation(explain(row, content, background), labels.of_request(store, str(request_id)), as_json)


def _capabilities(settings: Settings) -> Capabilities:
    student = settings.student
    return Capabilities(student.context_tokens, student.tools, student.images)


def _show_explanation(explanation: Explanation, found: list[Label], to_json: bool) -> None:
    if to_json:
        shown = msgspec.to_builtins(explanation) | {"labels": msgspec.to_builtins(found)}
        click.echo(msgspec.json.format(msgspec.json.encode(shown)).decode())
        return
    click.echo(f"{explanation.route}, {explanation.reason}")
    for sentence in explanation.why:
        click.echo(sentence)
    for word in explanation.words:
        side = "student" if word.effect > 0 else "teacher"
        click.echo(f"The word {word.word!r} speaks for the {side} ({word.effect:+.2f} log-odds).")
    for label in found:
        click.echo(f"Label by {label.source}, compared by {label.comparator}: agreement {label.agreement:g}.")


def _show(report: LogReport) -> None:
    rows = [{"estimator": name, **_cells(point)} for name, point in report.in_force.items()]
    show_rows(rows, False, "the release's router cannot be read, so its thresholds are not known")
    click.echo("")
    step = max(1, (len(report.curve) - 1) // (SHOWN - 1))
    show_rows([_bars(point) | _cells(point) for point in report.curve[::step]], False, "")
    click.echo("")
    click.echo(
        f"{report.requests} requests of {report.release or 'all releases'}: both answers of {report.asked}, "
        f"compared of {report.labelled}"
    )
    if report.thresholds is not None and not report.thresholds.feasible:
        click.echo("in force: everything to the teacher, since no thresholds were shown to keep the target")
    for name in ("score", "confidence"):
        error = getattr(report, f"{name}_calibration_error")
        click.echo(f"calibration error of the {name}: {'no labels' if error is None else f'{error:.3f}'}")
    if report.plain_agreement is not None:
        click.echo(
            f"agreement of the labelled answers alone: {report.plain_agreement:.3f}; they are not an even sample, so "
            "this is no estimate"
        )


def _bars(point: Point) -> dict[str, str]:
    names = {"hard": point.hard, "confident": point.confident, "at the end": point.confident_end}
    return {name: f"{bar:.3f}" for name, bar in names.items()}


def _cells(point: Point) -> dict[str, Any]:
    return {
        "teacher share": f"{point.teacher_share:.3f}",
        "agreement": f"{point.agreement:.3f}",
        "95 % interval": f"[{point.low:.3f}, {point.high:.3f}]",
        "cost": f"{round(point.cost * NANO) / NANO:.3g}",
        "saving": f"{point.saving:.1%}",
        "labels": point.labels,
    }


def _draw(report: LogReport, path: Path) -> None:
    """The curve with its interval, and the thresholds in force upon it."""
    try:
        # the extra that brings it is optional
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CommandFailed("--plot needs matplotlib; pip install 'stillroom[plots]'") from error

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    points = sorted(report.curve, key=lambda point: point.teacher_share)
    shares = [point.teacher_share for point in points]
    axes.fill_between(
        shares, [point.low for point in points], [point.high for point in points], alpha=0.2, label="95 % interval"
    )
    axes.plot(shares, [point.agreement for point in points], label=f"agreement ({report.estimator})")
    now = report.in_force.get(report.estimator)
    if now is not None:
        axes.plot([now.teacher_share], [now.agreement], "o", color="black", label="in force")
    axes.set(xlabel="share answered by the teacher", ylabel="agreement with the teacher", xlim=(0, 1))
    axes.legend(loc="lower right")
    figure.savefig(path, format="png", dpi=150)
