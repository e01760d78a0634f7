"""``estimate``: what distilling would bring, from logs, before there is any student."""

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ledger.prices import Price
from stillroom.commands.common import CommandFailed, as_json, settings_of, show_rows
from stillroom.commands.cost import Amount
from stillroom.settings import Settings

if TYPE_CHECKING:
    from distill.estimate.estimating import Question
    from distill.estimate.findings import Findings

__all__ = ("command",)


@click.command("estimate")
@click.argument("logs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--price-input", type=Amount(), help="The teacher's, per million prompt tokens; with --price-output.")
@click.option("--price-output", type=Amount(), help="Per million completion tokens.")
@click.option("--model", "models", multiple=True, help="Only requests that this model answered. Repeatable.")
@click.option("--student-cost", type=Amount(), help="Of a request to the student [default: by student.price].")
@click.option("--training-cost", type=Amount(), default="0", show_default=True, help="Of making the student, once.")
@click.option("--months", type=click.IntRange(1, 1_200), help="In how many training has to come back.")
@click.option("--requests-per-day", type=click.FloatRange(0, 1e12, min_open=True), help="Instead of the logs' own.")
@click.option(
    "--target", type=click.FloatRange(0.5, 0.999), help="Agreement asked for [default: router.agreement_target]."
)
@click.option("--sample", type=click.IntRange(100, 50_000), default=8_000, show_default=True,
              help="Requests that are learned from and tested on, drawn from all.")  # fmt: skip
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), default="estimate.html", show_default=True,
              help="Where the page goes.")  # fmt: skip
@as_json
@click.pass_context
def command(context: click.Context, logs: tuple[Path, ...], report: Path, as_json: bool, **options: Any) -> None:
    """Say what share of logged traffic a student could take, at which agreement, and what that saves.

    LOGS are OpenAI's chat files and stored completions, the Batch API's, and exports of LiteLLM and Helicone: JSON
    lines, JSON or CSV, gzipped or not. They are read on this machine, and nothing leaves it.
    """
    if (options["price_input"] is None) != (options["price_output"] is None):
        raise click.UsageError("--price-input and --price-output go together.", context)
    if not report.absolute().parent.is_dir():
        raise click.UsageError(f"--report: there is no directory {report.absolute().parent}.", context)
    # scikit-learn takes a second to load, which no other command should wait for
    from distill.estimate.page import page

    found = _estimated(logs, _question(settings_of(context), options))
    for told in found.inventory.bad_lines:
        click.echo(f"stillroom: skipped {told}", err=True)
    bad = found.inventory.counts.get("bad", 0)
    if bad > len(found.inventory.bad_lines):
        click.echo(f"stillroom: skipped {bad - len(found.inventory.bad_lines)} more records", err=True)
    if not found.inventory.requests:
        raise CommandFailed("the logs hold no request that a chat model answered")
    report.write_text(page(found), "utf-8")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _show(found, report)


def _question(settings: Settings, options: dict[str, Any]) -> "Question":
    from distill.estimate.estimating import Promise, Question
    from distill.estimate.money import Costs
    from distill.estimate.reading import Wanted
    from router.policy import Capabilities

    student, router = settings.student, settings.router
    return Question(
        wanted=Wanted(
            capabilities=Capabilities(student.context_tokens, student.tools, student.images),
            router=router,
            price=_price(settings, options["price_input"], options["price_output"]),
            models=frozenset(options["models"]),
            sample=options["sample"],
        ),
        promise=Promise(
            options["target"] or router.agreement_target, router.confidence, settings.distill.holdout_share
        ),
        costs=Costs(options["student_cost"], student.price, options["training_cost"], options["months"]),
        requests_per_day=options["requests_per_day"],
    )


def _price(settings: Settings, asked: Decimal | None, answered: Decimal | None) -> Price | None:
    """What was given, else the settings', else None: the logs' own costs count."""
    if asked is not None and answered is not None:
        return Price(input=float(asked), output=float(answered))
    return settings.teacher.price if settings.teacher.price != Price() else None


def _estimated(logs: tuple[Path, ...], question: "Question") -> "Findings":
    from distill.estimate.estimating import Telling, estimate

    bars = Progress(
        TextColumn("  {task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bars:
        reading = bars.add_task("reading", total=sum(path.stat().st_size for path in logs))
        learning = bars.add_task("learning", total=None)
        telling = Telling(
            on_bytes=lambda n: bars.advance(reading, n),
            on_run=lambda done, of: bars.update(learning, completed=done, total=of),
        )
        return estimate(logs, question, telling)


def _show(found: "Findings", report: Path) -> None:
    held = found.inventory
    rows = [
        ("requests", f"{held.requests:,}", ""),
        ("requests a day", _or_unknown(held.requests_per_day, "{:,.1f}"), ""),
        ("of which the text was kept", f"{held.kept:,}", ""),
    ]
    for point in found.curve:
        share = _percent(point.ends)
        rows.append((f"a proxy may answer, from {point.answers:,}", f"{point.moved:.1%}", share))
    rows += [(f"drawn on, from {each.answers:,}", "", _percent(each.ends)) for each in found.beyond]
    if found.curve:
        ends = "" if found.agreement_ends is None else _percent(found.agreement_ends)
        rows.append(("agreement of the whole", f"{found.curve[-1].agreement:.1%}", ends))
    if found.money is not None:
        before = "" if found.money.before_ends is None else _amounts(found.money.before_ends)
        rows.append(("a month before", f"{found.money.before:,.2f}", before))
        for each in found.money.accountings:
            rows.append((f"saved a month ({each.accounting})", f"{each.saving:,.2f}", _amounts(each.saving_ends)))
            days = "never" if each.payback_days is None else f"{each.payback_days:,.1f}"
            late = " to ".join("never" if end is None else f"{end:,.1f}" for end in each.payback_ends)
            rows.append((f"payback in days ({each.accounting})", days, late))
    show_rows([{"": name, "value": value, "95%": ends} for name, value, ends in rows], False, "")
    click.echo(found.verdict.sentence)
    for step in found.verdict.next:
        click.echo(f"- {step}")
    click.echo(f"report: {report}")


def _or_unknown(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def _percent(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1%} to {ends[1]:.1%}"


def _amounts(ends: tuple[float, float]) -> str:
    return f"{ends[0]:,.2f} to {ends[1]:,.2f}"
