"""``ledger export``: what was kept, for other tools."""

from typing import Any, BinaryIO

import rich_click as click

from ledger.request_filters import DatedFilters
from ledger.store import now_ms
from stillroom.commands.common import actor, ledger_of
from stillroom.commands.data_filters import filter_options, given_filters

__all__ = ("export_",)


@click.command("export")
@click.option("--format", "format_", type=click.Choice(["stored-completions", "openai-chat"]),
              default="stored-completions", show_default=True, help="Of all lines.")  # fmt: skip
@click.option("--output", type=click.File("wb", lazy=True), default="-", help="A file [default: standard output].")
@filter_options
@click.pass_context
def export_(context: click.Context, format_: str, output: BinaryIO, **options: Any) -> None:
    """Write the answers that may be trained on as JSON lines, oldest first, with their metadata.

    Content as it was kept, with its personal data; what a caller opted out of, what has expired and what was erased
    are not in it. `estimate` and `ledger import` read either format.
    """
    from distill.exporting import export

    store = ledger_of(context)
    try:
        filters = DatedFilters(**given_filters(options)).filters(now_ms())
    except ValueError as error:
        raise click.UsageError(str(error), context) from error
    # a file that nothing goes into is there too
    output.write(b"")
    count = 0
    for line in export(store, format_, filters, actor()):
        output.write(line)
        count += 1
    click.echo(f"exported {count} requests", err=True)
