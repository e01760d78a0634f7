"""``ledger import|erase|flagged``: content that comes from elsewhere, and content that has to go."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ledger import holders, keys
from ledger.erasure import KINDS, Erasure, ErasureError, Kind, erase, resolve
from ledger.holders import Holders
from ledger.records import NANO
from ledger.store import Store
from stillroom.commands.common import CommandFailed, actor, as_json, ledger_of, settings_of, show_rows, when

if TYPE_CHECKING:
    from distill.imports import Imported

__all__ = ("commands",)

FORMATS = ("auto", "openai-chat", "stored-completions", "batch", "litellm", "helicone")


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="auto", show_default=True, help="Of all lines."
)
@click.option("--key", help="Id of the key that the rows belong to; no budget counts them.")
@click.option("--model", help="Who answered, where a line does not say [default: teacher.model].")
@click.option("--price-from-settings", is_flag=True, help="Record what the tokens cost at teacher.price.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, write nothing.")
@as_json
@click.pass_context
def import_(context: click.Context, files: tuple[Path, ...], as_json: bool, **chosen: Any) -> None:
    """Take logs of another system in as answers of the teacher: JSON lines, JSON or CSV, gzipped or not.

    Fine-tuning files, stored completions, logs of {"request", "response"}, the Batch API's output (give its input
    file too), and what LiteLLM and Helicone export. The same file again changes nothing. A bad line is skipped and
    named.
    """
    from distill.imports import ImportOptions, import_files

    settings, store = settings_of(context), ledger_of(context)
    if chosen["key"] is not None and all(key.id != chosen["key"] for key in keys.list_keys(store)):
        raise click.UsageError(f"there is no key {chosen['key']!r}; `stillroom keys list` shows them", context)
    options = ImportOptions(
        format=chosen["format_"],
        key_id=chosen["key"],
        model=chosen["model"] or settings.teacher.model,
        price=settings.teacher.price if chosen["price_from_settings"] else None,
        dry_run=chosen["dry_run"],
    )
    bar = Progress(
        TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, disable=as_json,
    )  # fmt: skip
    with bar:
        task = bar.add_task("reading", total=sum(path.stat().st_size for path in files))
        done = import_files(store, files, options, lambda n: bar.advance(task, n))
    _show_import(done, as_json)
    if done.bad and not done.imported and not done.known:
        raise CommandFailed("not one line could be imported")


def _show_import(done: "Imported", to_json: bool) -> None:
    for told in done.bad_lines:
        click.echo(f"stillroom: skipped {told}", err=True)
    if done.bad > len(done.bad_lines):
        click.echo(f"stillroom: skipped {done.bad - len(done.bad_lines)} more lines", err=True)
    if to_json:
        click.echo(msgspec.json.format(msgspec.json.encode(done)).decode())
        return
    would = "would import" if done.dry_run else "imported"
    click.echo(
        f"{would} {done.imported} of {done.lines} lines; {done.known} were known, {done.bad} are bad, "
        f"{done.not_trainable} are not to be trained on, {done.with_logprobs} have log-probabilities"
    )
    if done.cost_nano:
        click.echo(f"they cost {done.cost_nano / NANO:.2f} at the teacher's price")


@click.command("erase")
@click.option("--user", help="The end user's name, as requests send it in safety_identifier or user.")
@click.option("--conversation", help="The id of any request in it, or the conversation's own.")
@click.option("--request", help="A request's id.")
@click.option("--key", help="A key's id.")
@click.option("--purge-datasets", is_flag=True, help="Delete the data files of datasets that hold it, too.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and who holds copies; change nothing.")
@as_json
@click.pass_context
def erase_(context: click.Context, as_json: bool, dry_run: bool, purge_datasets: bool, **named: Any) -> None:
    """Delete what a user, a conversation, a request or a key said, and name who holds a copy.

    Rows, scores and sums stay, without content. Datasets that hold it are flagged, and releases that learned from
    them are listed.
    """
    given: list[tuple[Kind, str]] = [(kind, named[kind]) for kind in KINDS if named[kind] is not None]
    if len(given) != 1:
        raise click.UsageError("name one of --user, --conversation, --request and --key", context)
    store = ledger_of(context)
    done = _erased(store, given[0], dry_run)
    purged = _purge(store, done) if purge_datasets and not dry_run else None
    if as_json:
        whole = msgspec.to_builtins(done) | ({"purged": purged[0], "not_purged": purged[1]} if purged else {})
        click.echo(msgspec.json.format(msgspec.json.encode(whole)).decode())
        return
    click.echo(
        f"{'would erase' if dry_run else 'erased'} the content of {done.contents} requests, {done.feedback} texts of "
        f"feedback and {done.responses} kept responses of {done.subject}"
    )
    if done.quoting:
        click.echo(f"{done.quoting} other requests of the same conversation stay and may quote it (--conversation)")
    _show_holders(done.holders)
    if purged:
        click.echo(f"deleted {len(purged[0])} files of datasets")
        if purged[1]:
            click.echo(f"left alone, since their jobs have not ended: {', '.join(purged[1])}")


def _erased(store: Store, named: tuple[Kind, str], dry_run: bool) -> Erasure:
    try:
        return erase(store, resolve(store, *named), actor(), dry_run)
    except ErasureError as error:
        raise CommandFailed(str(error)) from error


def _purge(store: Store, done: Erasure) -> tuple[list[str], list[str]]:
    return holders.purge(store, done.holders.datasets)


@click.command("flagged")
@as_json
@click.pass_context
def flagged(context: click.Context, as_json: bool) -> None:
    """Datasets that hold erased content, their files, and the releases that learned from it."""
    show_rows(list(_rows(holders.flagged(ledger_of(context)))), as_json, "nothing that was erased is held anywhere")


def _show_holders(held: Holders) -> None:
    rows = list(_rows(held))
    if rows:
        click.echo("copies are held by:")
        show_rows(rows, False, "")


def _rows(held: Holders) -> Iterator[dict[str, Any]]:
    for dataset in held.datasets:
        files = f"{len(dataset.files)} files in {dataset.folder}" if dataset.files else "files deleted"
        yield {"holder": dataset.id, "kind": "dataset", "where": files, "flagged": when(dataset.flagged_at)}
    for release in held.releases:
        how = "trained on" if release.how == "trained" else "goes on from"
        yield {
            "holder": release.id,
            "kind": f"release ({release.state})",
            "where": f"{how} {release.of}, in {release.folder}",
            "flagged": "",
        }


commands = (import_, erase_, flagged)
