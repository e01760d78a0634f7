"""``router evaluate``: the router on a table of prompts with two models' scores, or on the ledger."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click

from router.evaluation.reading import TableError
from stillroom.commands.common import as_json, show_rows
from stillroom.commands.router_log import evaluate_log, explain_command

__all__ = ("group",)

COLUMNS = ("prompt", "weak", "strong", "weak_cost", "strong_cost", "group")
MEASURES = ("apgr", "apgr_ci", "cpt50", "cpt80", "auc", "ece", "aiq")


@click.group("router")
def group() -> None:
    """What decides which requests the student answers."""


group.add_command(explain_command)


@group.command()
@click.option(
    "--dataset",
    "datasets",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Prompts with scores: CSV, TSV, JSON, JSONL (all also .gz), Parquet, or a directory of them. Repeatable.",
)
@click.option("--prompt", metavar="COL", help="Column of the prompts.")
@click.option("--weak", metavar="COL", help="Column of the weak model's scores.")
@click.option("--strong", metavar="COL", help="Column of the strong model's scores.")
@click.option("--weak-cost", metavar="COL|NUMBER", help="Cost of the weak model's answer.")
@click.option("--strong-cost", metavar="COL|NUMBER", help="Cost of the strong model's answer.")
@click.option("--group", metavar="COL", help="Column of what a prompt belongs to; whole groups are held out.")
@click.option(
    "--train",
    "trains",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Train on this table and test on --dataset. Repeatable.",
)
@click.option("--folds", type=click.IntRange(2, 100), default=5, show_default=True, help="Of each cross-validation.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of splits and fits.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the cost-quality curve to this PNG."
)
@as_json
@click.pass_context
def evaluate(context: click.Context, as_json: bool, **options: Any) -> None:
    """Say how good the router is.

    With --dataset, on a table of prompts with two models' scores, beside random, prompt length, group mean, TF-IDF
    and the oracle. Without, on the traffic and the labels that the ledger holds.
    """
    plot: Path | None = options["plot"]
    if plot and find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib; pip install 'stillroom[plots]'.", context)
    if plot and not plot.absolute().parent.is_dir():
        raise click.UsageError(f"--plot: there is no directory {plot.absolute().parent}.", context)
    if not options["datasets"]:
        _evaluate_ledger(context, as_json, options)
        return
    try:
        found = _evaluated(options)
    except TableError as error:
        raise click.UsageError(f"{error}.", context) from error
    if plot:
        from router.evaluation.picture import draw

        draw(found, plot)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _show(found)


def _evaluate_ledger(context: click.Context, as_json: bool, options: Mapping[str, Any]) -> None:
    given = [f"--{name.replace('_', '-')}" for name in COLUMNS if options[name]] + ["--train"] * bool(
        options["trains"]
    )
    if given:
        raise click.UsageError(f"{given[0]} needs --dataset.", context)
    evaluate_log(context, as_json, plot=options["plot"])


def _evaluated(options: Mapping[str, Any]) -> dict[str, Any]:
    # scikit-learn takes a second to load, which no other command should wait for
    from router.evaluation.layout import Columns
    from router.evaluation.report import Plan, evaluate_table
    from router.evaluation.table import read_table, read_training_table

    table = read_table(options["datasets"], Columns(**{name: options[name] for name in COLUMNS}))
    train = read_training_table(options["trains"], table) if options["trains"] else None
    found = evaluate_table(table, train, Plan(options["folds"], options["seed"]), _say)
    return {"dataset": [str(path) for path in options["datasets"]], **found}


def _say(message: str) -> None:
    click.echo(message, err=True)


def _show(found: Mapping[str, Any]) -> None:
    for name, split in found["splits"].items():
        if split is not None:
            click.echo(f"\n{name.replace('_', ' ')}, {split['n']} prompts")
            show_rows(_rows(split), False, "")
    click.echo("")
    if not found["priced"]:
        click.echo("no costs in the table: a strong call counts 1, a weak one 0")
    if found["dropped"]:
        why = ", ".join(f"{number} without {what}" for what, number in found["dropped_for"].items())
        click.echo(f"left out {found['dropped']} rows: {why}")
    click.echo(f"weak {found['weak']}, strong {found['strong']}")
    click.echo(found["verdict"])


def _rows(split: Mapping[str, Any]) -> list[dict[str, Any]]:
    ranked = {"router": split["router"], **{name: row for name, row in split["baselines"].items() if "apgr" in row}}
    return [
        {"ranking": name, **{measure: _cell(row[measure]) for measure in MEASURES}} for name, row in ranked.items()
    ]


def _cell(value: Any) -> str | None:
    if isinstance(value, list):
        low, high = value
        return None if low is None else f"[{low:.3f}, {high:.3f}]"
    return None if value is None else f"{value:.3f}"
