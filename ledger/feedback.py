"""What callers say of the answers they got: a score, a label, the right answer. Several may speak of one request; the
newest is the one that counts, as a whole.
"""

import secrets
import time
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from ledger import schema
from ledger.records import compressed, decompressed
from ledger.store import Store

__all__ = (
    "NEGATIVE",
    "Feedback",
    "NothingKept",
    "UnknownRequest",
    "add",
    "correction_in",
    "newest",
    "of_request",
)

NEGATIVE: Final = 0.5
"""A score below it says that the answer was wrong."""


class UnknownRequest(LookupError):
    """There is no such request, or not for this key."""


class NothingKept(ValueError):
    """Nothing is left to keep: the feedback was text only, of a request whose content is not kept."""


class Feedback(msgspec.Struct, kw_only=True, frozen=True):
    """One row of ``feedback``. ``created_at`` is in ms since the epoch, ``score`` from 0 (wrong) to 1 (right)."""

    id: str
    created_at: int
    request_id: str
    key_id: str | None = None
    score: float | None = None
    label: str | None = None
    correction: str | None = None
    """What the answer should have been."""
    comment: str | None = None


class _Said(msgspec.Struct, omit_defaults=True):
    """The texts: like a request's content they are compressed, and expire with it."""

    correction: str | None = None
    comment: str | None = None


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(_Said)


def add(store: Store, said: Feedback, asker: str | None, anyones: bool) -> Feedback:
    """Keep feedback of the key ``asker`` (of any request, with ``anyones``); its id and time are given here.

    Texts are kept where the request's content is. Returns what was kept. Raises `UnknownRequest` and `NothingKept`.
    """
    table, contents = schema.requests, schema.contents
    asked = (
        sa.select(table.c.key_id, contents.c.request_id.label("content"))
        .outerjoin(contents, contents.c.request_id == table.c.id)
        .where(table.c.id == said.request_id)
    )
    # time-ordered, so that of two in one millisecond the later one is the newer
    now = time.time_ns()
    kept = msgspec.structs.replace(
        said, id=f"fb_{now:016x}{secrets.token_hex(4)}", created_at=now // 1_000_000, key_id=asker
    )
    with store.read() as connection:
        row = connection.execute(asked).first()
    if row is None or not (anyones or row.key_id == asker):
        raise UnknownRequest(f"there is no request {said.request_id!r}")
    if row.content is None:
        kept = msgspec.structs.replace(kept, correction=None, comment=None)
    if kept.score is None and kept.label is None and kept.correction is None and kept.comment is None:
        raise NothingKept("the content of this request is not kept, so a text about it is not either")
    with store.write(None) as connection:
        connection.execute(sa.insert(schema.feedback).values(_row(kept)))
    return kept


def of_request(store: Store, request_id: str) -> list[Feedback]:
    """All feedback of a request, newest first."""
    return _newest_first(store, schema.feedback.c.request_id == request_id, None)


def newest(store: Store, limit: int = 100) -> list[Feedback]:
    """The newest feedback of all requests."""
    return _newest_first(store, sa.true(), limit)


def correction_in(body: bytes | None) -> str | None:
    """The correction in the ``body`` of a row of ``feedback``."""
    return _said(body).correction


def _newest_first(store: Store, condition: sa.ColumnElement[bool], limit: int | None) -> list[Feedback]:
    table = schema.feedback
    statement = sa.select(table).where(condition).order_by(table.c.id.desc()).limit(limit)
    with store.read() as connection:
        return [_feedback(row) for row in connection.execute(statement).mappings()]


def _row(feedback: Feedback) -> dict[str, Any]:
    values = msgspec.structs.asdict(feedback)
    said = _Said(values.pop("correction"), values.pop("comment"))
    return values | {"body": compressed(_encode(said)) if said != _Said() else None}


def _feedback(row: sa.RowMapping) -> Feedback:
    values = dict(row)
    said = _said(values.pop("body"))
    return Feedback(**values, correction=said.correction, comment=said.comment)


def _said(body: bytes | None) -> _Said:
    return _decoder.decode(decompressed(body)) if body else _Said()
