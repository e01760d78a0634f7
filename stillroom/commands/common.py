"""What the commands share: settings, the ledger, tables for people and JSON for programs."""

import getpass
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ledger.store import Store
from stillroom.parts import open_ledger
from stillroom.settings import Settings, load_settings

__all__ = ("CommandFailed", "actor", "as_json", "ledger_of", "settings_of", "show_rows", "when")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


class CommandFailed(Exception):
    """A command could not do what it was asked; the message is for its user."""


def settings_of(context: click.Context) -> Settings:
    """The settings that ``--config`` names."""
    config: Path | None = context.find_root().obj
    return load_settings(config)


def ledger_of(context: click.Context) -> Store:
    """The ledger, opened."""
    return open_ledger(settings_of(context))


def actor() -> str:
    """Who changes something from this command line, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):
        return "cli"


def when(milliseconds: int | None) -> str:
    """A time for people, in UTC."""
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def show_rows(rows: Sequence[dict[str, Any]], to_json: bool, empty: str) -> None:
    """Print rows as a table, or as a JSON list."""
    if to_json:
        click.echo(msgspec.json.format(msgspec.json.encode(list(rows))).decode())
        return
    if not rows:
        click.echo(empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(rows[0]):
        # the id in the first column is to be copied whole
        table.add_column(name, no_wrap=i == 0, overflow="fold")
    for row in rows:
        # as Text, since a name or an error may hold what Rich takes for markup
        table.add_row(*(Text(str(value)) if value is not None else "" for value in row.values()))
    Console().print(table)
