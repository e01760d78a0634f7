"""Whose content it is: finding what is somebody's, and filling it in for what is older than the columns for it."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import zstandard

from ledger import schema
from ledger.conversations import conversation_id, user_id
from ledger.records import decode_content
from ledger.store import Store

__all__ = ("backfill", "requests_of")

BATCH: Final = 500


def requests_of(column: str, owners: Sequence[str] | sa.Select[str]) -> sa.Select[str]:
    """The ids of the requests with content of these owners; ``column`` is ``conversation_id`` or ``user_id``.

    Minute after minute is asked for, since the index begins with it; as a set of them, since newer releases of SQLite
    turn a join around and read all content.
    """
    table, minute = schema.contents, schema.content_minute
    minutes = sa.select(sa.func.min(minute).label("at")).cte("minutes", recursive=True)
    later = sa.select(sa.func.min(minute)).where(minute > minutes.c.at).correlate(minutes).scalar_subquery()
    minutes = minutes.union_all(sa.select(later).where(minutes.c.at.is_not(None)))
    return sa.select(table.c.request_id).where(minute.in_(sa.select(minutes.c.at)), table.c[column].in_(owners))


def backfill(store: Store, batch: int = BATCH) -> int:
    """Fill in the conversation and the user of each content that has neither, in batches. Returns how many.

    What cannot be decoded stays as it is.
    """
    table, done, last = schema.contents, 0, ""
    while True:
        pick = sa.select(table.c.request_id, table.c.body).where(
            table.c.conversation_id.is_(None), table.c.request_id > last
        )
        with store.read() as connection:
            rows = connection.execute(pick.order_by(table.c.request_id).limit(batch)).all()
        if not rows:
            return done
        owners = [owner for row in rows if (owner := _owner(row.request_id, row.body)) is not None]
        if owners:
            with store.write() as connection:
                for owner in owners:
                    connection.execute(
                        sa.update(table).where(table.c.request_id == owner["request_id"]).values(owner)
                    )
        done, last = done + len(owners), rows[-1].request_id


def _owner(request_id: str, body: bytes) -> dict[str, Any] | None:
    try:
        content = decode_content(body)
    except (msgspec.MsgspecError, zstandard.ZstdError):
        return None
    return {
        "request_id": request_id,
        "conversation_id": conversation_id(content.messages),
        "user_id": user_id(content),
    }
