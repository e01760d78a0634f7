"""The ``batches`` table: requests that came as a file, and how far they are.

``validating → in_progress → finalizing → completed``; or ``failed``, ``expired``, ``cancelling → cancelled``.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from ledger import files, schema
from ledger.files import File
from ledger.newest import behind, newest_first
from ledger.store import Store

__all__ = ("OPEN", "Batch", "add", "change", "finish", "get", "holds", "open_batches", "page")

OPEN: Final = ("validating", "in_progress", "finalizing", "cancelling")
"""States of a batch that a gateway has to do with."""
_table = schema.batches


class Batch(msgspec.Struct, frozen=True):
    """A batch. Times are ms since the epoch, None for what has not happened."""

    id: str
    created_at: int
    key_id: str | None
    endpoint: str
    input_file_id: str
    completion_window: str
    status: str
    expires_at: int
    metadata: dict[str, str] | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: list[dict[str, Any]] | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None


_columns: Final = [_table.c[name] for name in Batch.__struct_fields__]


def add(store: Store, batch: Batch) -> None:
    """Add a batch, to be taken up by a gateway that has its file."""
    with store.write() as connection:
        connection.execute(sa.insert(_table).values(msgspec.structs.asdict(batch)))


def get(store: Store, batch_id: str) -> Batch | None:
    """A batch by its id, or None."""
    with store.read() as connection:
        row = connection.execute(sa.select(*_columns).where(_table.c.id == batch_id)).first()
    return Batch(*row) if row else None


def page(store: Store, limit: int, after: str | None = None, key_id: str | None = None) -> list[Batch]:
    """Batches newest first: of one key, where it is given."""
    wanted = sa.select(*_columns).order_by(*newest_first(_table)).limit(limit)
    wanted = wanted if key_id is None else wanted.where(_table.c.key_id == key_id)
    with store.read() as connection:
        beyond = behind(connection, _table, after) if after else None
        rows = connection.execute(wanted if beyond is None else wanted.where(beyond)).all()
    return [Batch(*row) for row in rows]


def open_batches(store: Store, limit: int) -> list[Batch]:
    """Those that are not over, oldest first."""
    wanted = sa.select(*_columns).where(_table.c.status.in_(OPEN)).order_by(_table.c.created_at, _table.c.id)
    with store.read() as connection:
        return [Batch(*row) for row in connection.execute(wanted.limit(limit)).all()]


def holds(store: Store, file_id: str) -> bool:
    """Whether an open batch reads this file."""
    wanted = sa.select(_table.c.id).where(_table.c.input_file_id == file_id, _table.c.status.in_(OPEN)).limit(1)
    with store.read() as connection:
        return connection.execute(wanted).first() is not None


def change(store: Store, batch_id: str, states: Sequence[str], **values: Any) -> bool:
    """Set columns of a batch that is in one of these states. Returns whether it was."""
    with store.write() as connection:
        return _change(connection, batch_id, states, values)


def finish(store: Store, batch_id: str, made: Sequence[File], **values: Any) -> bool:
    """End an open batch, with the files that it made, in one transaction. Returns whether it was open."""
    with store.write() as connection:
        if not _change(connection, batch_id, OPEN, values):
            return False
        for file in made:
            files.insert(connection, file)
        return True


def _change(connection: sa.Connection, batch_id: str, states: Sequence[str], values: dict[str, Any]) -> bool:
    its_row = (_table.c.id == batch_id, _table.c.status.in_(states))
    return bool(connection.execute(sa.update(_table).where(*its_row).values(values)).rowcount)
