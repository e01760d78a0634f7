"""``distill data``: a dataset from the ledger, without a job."""

import secrets
import time
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from distill.capabilities import NOT_ALLOWED
from distill.job_options import narrowed
from ledger import releases
from ledger.request_filters import DatedFilters
from ledger.store import Store
from stillroom.commands.common import CommandFailed, as_json, ledger_of, settings_of, show_rows
from stillroom.commands.data_filters import filter_options, given_filters
from stillroom.settings import Settings

__all__ = ("data", "student_tokenizer")

TAKEN = {"train": "to train on", "held_out": "held out"}


class _Bars:
    """A bar for each stage, on standard error, so that what is printed can be read by a program."""

    def __init__(self) -> None:
        self.bars = Progress(
            TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn(),
            console=Console(stderr=True),
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, of: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self.bars.add_task(what, total=None)
        self.bars.update(self._tasks[what], completed=done, total=of or None)


@click.command()
@filter_options
@click.option("--max-examples", type=click.IntRange(1), help="The most rows to train on.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder; default: datasets in home.")
@click.option("--pii-map", type=click.Path(path_type=Path, dir_okay=False), help="Keep what placeholders hide.")
@click.option("--dry-run", is_flag=True, help="Count only; nothing is written.")
@as_json
@click.pass_context
def data(context: click.Context, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Build a dataset from the ledger: what a job would train on, by filters.

    What is not given here is as the settings have it (distill.data).
    """
    settings = settings_of(context)
    if not settings.teacher.terms_allow_training:
        raise CommandFailed(NOT_ALLOWED)
    store = ledger_of(context)
    chosen = _chosen(settings, options)
    folder = options["output"] or _new_folder(settings)
    if not dry_run and folder.is_dir() and any(folder.iterdir()):
        raise click.UsageError(f"--output is not empty: {folder}", context)
    found = _run(chosen, store, folder, None if dry_run else options["pii_map"], dry_run)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    rows = [{"rows": found[name], "what": what} for name, what in TAKEN.items()]
    rows += [{"rows": n, "what": f"left out: {why.replace('_', ' ')}"} for why, n in found["dropped"].items()]
    show_rows(rows, False, "")
    if not dry_run:
        click.echo(
            f"dataset {found['id']} in {folder}: {found['aligned_share']:.0%} of the tokens with soft targets, "
            f"weights worth {found['effective_size']:.0f} rows, {sum(found['redacted'].values())} placeholders"
        )


def _chosen(settings: Settings, options: dict[str, Any]) -> Settings:
    """The settings, narrowed by what was given. Raises ``click.UsageError``."""
    try:
        kept = narrowed(settings.distill.data, DatedFilters(**given_filters(options)))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    distill = msgspec.structs.replace(settings.distill, data=kept)
    if options["max_examples"]:
        distill = msgspec.structs.replace(distill, max_examples=options["max_examples"])
    return msgspec.structs.replace(settings, distill=distill)


def _new_folder(settings: Settings) -> Path:
    return settings.home_path / "datasets" / f"{time.strftime('%Y%m%d', time.gmtime())}-{secrets.token_hex(3)}"


def _run(settings: Settings, store: Store, folder: Path, pii_map: Path | None, dry_run: bool) -> dict[str, Any]:
    from distill.dataset import Building, DatasetError, build_dataset, plan_dataset

    bars = _Bars()
    building = Building(
        store, settings.distill, settings.router.explore_share, student_tokenizer(settings, store),
        on_progress=bars, pii_map=pii_map,
    )  # fmt: skip
    try:
        with bars.bars:
            if not dry_run:
                return msgspec.to_builtins(build_dataset(building, folder))
            with plan_dataset(building) as plan:
                return {"train": plan.chosen.train.size, "held_out": plan.chosen.held_out, "dropped": plan.dropped}
    except DatasetError as error:
        raise CommandFailed(str(error)) from error


def student_tokenizer(settings: Settings, store: Store) -> Any:
    """The student's: the live release's, or of the weights that the first one will be made of."""
    from transformers import AutoTokenizer

    from serving.weights import resolve_weights

    live = releases.live(store)
    if live is not None and settings.distill.start_from == "champion":
        folder = Path(live.folder) / "student"
    else:
        folder = resolve_weights(settings.student.weights, settings.home_path / "models")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
