"""What has no label yet: requests that both models answered, and feedback that nobody has turned into a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ledger import schema
from ledger.feedback import correction_in
from ledger.records import Content, decode_content
from ledger.store import Store

__all__ = ("BESIDE", "TRIED", "Pair", "Said", "feedback_unlabelled", "pairs_unlabelled")

BESIDE: Final = ("explore", "shadow")
"""Ends of the ids of rows that were asked beside a client's request; their labels are about that request."""
TRIED: Final = "canary"
"""The end of the ids of rows of a release on trial; their labels are about themselves."""
COMPARED: Final = (*BESIDE, "escalated", TRIED)
BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Pair:
    """A row with both answers in its content. ``request_id`` is the client's request, ``source`` its label's."""

    request_id: str
    source: str
    row: dict[str, Any]
    content: Content


@dataclass(frozen=True, slots=True)
class Said:
    """The newest feedback of a request, with the request's row, and its content where it is kept."""

    row: dict[str, Any]
    content: Content | None
    said_at: int
    score: float | None
    correction: str | None


def pairs_unlabelled(store: Store, before: tuple[int, str] | None, limit: int = BATCH) -> list[Pair]:
    """Newest first, from the row at ``before`` (created_at, id) on: rows beside a request, and requests that were
    escalated with the student's whole answer known. Callers who opted out are left out.
    """
    table, contents = schema.requests, schema.contents
    base = sa.func.replace(sa.func.replace(table.c.id, "-explore", ""), "-shadow", "")
    escalated = sa.and_(table.c.reason == "low_confidence", ~table.c.stream)
    statement = (
        sa.select(table, contents.c.body)
        .join(contents, contents.c.request_id == table.c.id)
        .where(
            table.c.status < 400,
            table.c.trainable,
            sa.or_(table.c.reason == "explore", escalated),
            ~_labelled(base, COMPARED),
        )
        .order_by(table.c.created_at.desc(), table.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        at, row_id = before
        earlier = sa.and_(table.c.created_at == at, table.c.id < row_id)
        statement = statement.where(sa.or_(table.c.created_at < at, earlier))
    with store.read() as connection:
        return [_pair(dict(row)) for row in connection.execute(statement).mappings()]


def feedback_unlabelled(store: Store, since: int, limit: int = BATCH) -> list[Said]:
    """The newest feedback of each request that has a score or a correction and no label since, oldest first, from a
    time (ms) on.
    """
    table, contents, said, newer = schema.requests, schema.contents, schema.feedback, schema.feedback.alias()
    superseded = sa.select(newer.c.id).where(newer.c.request_id == said.c.request_id, newer.c.id > said.c.id)
    statement = (
        sa.select(
            table,
            contents.c.body,
            said.c.created_at.label("said_at"),
            said.c.score.label("said_score"),
            said.c.body.label("said"),
        )
        .join(said, said.c.request_id == table.c.id)
        .outerjoin(contents, contents.c.request_id == table.c.id)
        .where(
            said.c.created_at >= since,
            sa.or_(said.c.score.is_not(None), said.c.body.is_not(None)),
            ~superseded.exists(),
            ~_labelled(table.c.id, ("feedback",), said.c.created_at),
        )
        .order_by(said.c.id)
        .limit(limit)
    )
    with store.read() as connection:
        return [_said(dict(row)) for row in connection.execute(statement).mappings()]


def _labelled(
    request_id: sa.ColumnElement[str], sources: Sequence[str], since: sa.ColumnElement[int] | None = None
) -> sa.Exists:
    label = schema.labels
    found = sa.select(label.c.request_id).where(label.c.request_id == request_id, label.c.source.in_(sources))
    return (found if since is None else found.where(label.c.created_at > since)).exists()


def _pair(row: dict[str, Any]) -> Pair:
    content = decode_content(row.pop("body"))
    base, _, end = row["id"].rpartition("-")
    if end in BESIDE:
        return Pair(base, end, row, content)
    return Pair(row["id"], TRIED if end == TRIED else "escalated", row, content)


def _said(row: dict[str, Any]) -> Said:
    body, said_at, score, said = (row.pop(name) for name in ("body", "said_at", "said_score", "said"))
    return Said(row, decode_content(body) if body else None, said_at, score, correction_in(said))
