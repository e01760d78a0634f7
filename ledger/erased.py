"""What was erased, so that a record of it which comes later, out of a spool or of a file, does not bring it back."""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from ledger import schema
from ledger.audit import record as audit
from ledger.records import RequestRecord
from ledger.replays import origin_of
from ledger.store import now_ms
from ledger.unlabelled import BESIDE, TRIED

__all__ = ("ENDS", "client_request", "is_erased", "mark", "marks_since")

ACTION: Final = "content.erase"
ENDS: Final = (*BESIDE, TRIED)
"""Of the ids of rows that repeat the content of a client's request."""


def mark(connection: sa.Connection, actor: str, subject: str) -> int:
    """Write down, in the audit, that the content of a subject is erased from now back. Returns now (ms).

    A subject is ``user:``, ``conversation:``, ``request:`` or ``key:`` with an id.

    A batch of records that is being inserted meanwhile is either waited for or sees the mark.
    """
    if connection.dialect.name == "postgresql":
        # there, unlike on SQLite, two transactions may write at once
        connection.execute(sa.text("LOCK TABLE requests IN SHARE ROW EXCLUSIVE MODE"))
    now = now_ms()
    audit(connection, actor, ACTION, subject, {"until": now})
    return now


def marks_since(connection: sa.Connection, oldest: int) -> dict[str, int]:
    """The subjects whose content was erased at or after a time (ms), each with the last time of it."""
    table = schema.audit
    statement = (
        sa.select(table.c.subject, sa.func.max(table.c.at).label("until"))
        .where(table.c.action == ACTION, table.c.at >= oldest)
        .group_by(table.c.subject)
    )
    return {row.subject: row.until for row in connection.execute(statement)}


def is_erased(marks: Mapping[str, int], record: RequestRecord, owner: Mapping[str, Any]) -> bool:
    """Whether the record was made before its content's erasure; ``owner`` has its conversation's and user's id."""
    names = [("request", client_request(record.id)), ("key", record.key_id), *owner.items()]
    # a replay repeats what another request said
    names.append(("request", origin_of(record.tags)))
    return any(marks.get(f"{kind}:{value}", -1) >= record.created_at for kind, value in names if value)


def client_request(request_id: str) -> str:
    """The id of the client's request that a row belongs to: a row beside it has the same content."""
    base, _, end = request_id.rpartition("-")
    return base if base and end in ENDS else request_id
