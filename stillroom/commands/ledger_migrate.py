"""``ledger migrate``: the whole ledger into another store."""

from typing import Any

import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ledger.moving import Moved, MoveError, move
from ledger.store import Store, open_store
from stillroom.commands.common import CommandFailed, as_json, settings_of, show_rows

__all__ = ("migrate",)


@click.command()
@click.option("--to", "url", required=True, help="URL of an empty database, as in postgresql://user@host/name.")
@as_json
@click.pass_context
def migrate(context: click.Context, url: str, as_json: bool) -> None:
    """Copy the ledger of the settings into another store, and prove that it is the same there.

    Ended halfway, it goes on from there when it is called again. The settings stay as they are: set store.url
    afterwards. A password comes from PGPASSWORD or ~/.pgpass.
    """
    settings = settings_of(context)
    if url == settings.store_url:
        raise click.UsageError("--to is the store that the settings have already", context)
    try:
        source, target = open_store(settings.store_url), open_store(url)
        rows = [_shown(moved) for moved in _moved(source, target, settings.store_url, quiet=as_json)]
    except ArgumentError as error:
        raise click.UsageError(str(error), context) from error
    except MoveError as error:
        raise CommandFailed(str(error)) from error
    except SQLAlchemyError as error:
        raise CommandFailed(f"{str(error).splitlines()[0]}; call it again to go on from here") from error
    show_rows(rows, as_json, "")


def _moved(source: Store, target: Store, origin: str, quiet: bool) -> list[Moved]:
    bar = Progress(
        TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(),
        console=Console(stderr=True), disable=quiet,
    )  # fmt: skip
    tasks: dict[str, Any] = {}
    with bar:

        def say(table: str, done: int, total: int) -> None:
            if table not in tasks:
                tasks[table] = bar.add_task(table, total=total)
            bar.update(tasks[table], completed=done)

        return move(source, target, origin, say)


def _shown(moved: Moved) -> dict[str, Any]:
    return {"table": str(moved.table), "rows": moved.rows, "mended": moved.mended, "hash": moved.hash}
