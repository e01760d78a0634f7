"""``ledger archive``: the rows of old requests as Parquet files."""

from datetime import UTC, datetime
from typing import Any

import rich_click as click
from sqlalchemy.exc import SQLAlchemyError

from ledger.artifacts import ArtifactError
from ledger.request_filters import moment_ms
from ledger.store import now_ms
from stillroom.commands.common import CommandFailed, as_json, ledger_of, show_rows

__all__ = ("archive",)

DAY_S = 86_400


@click.command()
@click.option("--before", required=True, help="Archive days that end before then: a date, or how long ago (90d).")
@click.option("--to", "url", required=True, help="Folder, or any fsspec URL, as in s3://bucket/stillroom.")
@click.option("--delete", is_flag=True, help="Delete the rows that were read back from there.")
@as_json
@click.pass_context
def archive(context: click.Context, before: str, url: str, delete: bool, as_json: bool) -> None:
    """Copy the rows of old requests and their labels to Parquet files, without content; sums stay in the ledger.

    Ended halfway, it goes on from there when it is called again. With --delete, rows that have content or are in a
    dataset stay: let the content expire first.
    """
    try:
        from ledger.archive import ArchiveError, Day, youngest
        from ledger.archive import archive as run
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise CommandFailed("pyarrow is not installed: pip install 'stillroom[archive]'") from error
    end, done = _before(context, before, youngest()), list[Day]()
    try:
        run(ledger_of(context), url, end, delete, done.append)
    except (ArchiveError, ArtifactError) as error:
        raise CommandFailed(f"{error}; {len(done)} days of tables are done") from error
    except SQLAlchemyError as error:
        raise CommandFailed(f"{str(error).splitlines()[0]}; call it again to go on from here") from error
    show_rows([_shown(each) for each in done], as_json, "no rows are that old")


def _before(context: click.Context, text: str, youngest: int) -> int:
    hint = "'--before'"
    try:
        end = moment_ms(text, now_ms())
    except ValueError as error:
        raise click.BadParameter(str(error), context, param_hint=hint) from error
    if end is None or end > youngest:
        latest = datetime.fromtimestamp(youngest / 1000, UTC)
        message = f"{text} is too young: records may still be on their way; {latest:%Y-%m-%d} at the latest"
        raise click.BadParameter(message, context, param_hint=hint)
    return end


def _shown(done: Any) -> dict[str, Any]:
    day = datetime.fromtimestamp(done.day * DAY_S, UTC).strftime("%Y-%m-%d")
    return {"table": done.table, "day": day, "rows": done.rows, "written": done.written, "deleted": done.deleted}
