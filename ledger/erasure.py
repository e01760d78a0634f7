"""Erasing what a user, a conversation, a request or a key said, and naming every dataset and release that holds it.

The rows of ``requests`` stay, without content: they are the bill. A mark in the audit comes first (`ledger.erased`),
so that records which are still in a spool then, on whatever machine, lose their content on their way in.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from ledger import datasets, schema
from ledger.audit import record as audit
from ledger.conversations import conversation_id, user_id_of
from ledger.erased import ENDS, client_request, mark
from ledger.holders import Holders, holders
from ledger.owners import backfill, requests_of
from ledger.records import decompressed
from ledger.replays import replays_of
from ledger.store import Store, now_ms

__all__ = ("KINDS", "Erasure", "ErasureError", "Kind", "Subject", "erase", "resolve")

Kind = Literal["user", "conversation", "request", "key"]
KINDS: Final[tuple[Kind, ...]] = ("user", "conversation", "request", "key")
BATCH: Final = 500
NAMELESS: Final = conversation_id([])
"""The id that all conversations without a user's message share."""


class ErasureError(ValueError):
    """There is no such thing to erase; the message says what to name instead."""


class Subject(msgspec.Struct, frozen=True):
    """Whose content: ``value`` is the id of it, for a user and a conversation the hash of `ledger.conversations`."""

    kind: Kind
    value: str

    def __str__(self) -> str:
        """As the audit has it."""
        return f"{self.kind}:{self.value}"


class Erasure(msgspec.Struct, kw_only=True):
    """What was deleted (``dry_run``: would be), and who holds a copy of it."""

    subject: str
    dry_run: bool
    contents: int
    """Requests whose content there was."""
    feedback: int
    """Comments and corrections."""
    responses: int
    """Kept answers of ``/v1/responses``, those that go on from them included."""
    quoting: int
    """Other requests of the same conversations, whose content stays and may repeat what was erased."""
    holders: Holders


def resolve(store: Store, kind: Kind, value: str) -> Subject:
    """The subject by the name that people have for it: a user's name as the application sends it, any request's id
    or the conversation's own for a conversation, else the id.

    Raises `ErasureError`.
    """
    if kind == "user":
        return Subject(kind, user_id_of(value))
    if kind == "conversation":
        return Subject(kind, _conversation(store, value))
    if kind == "request":
        # it may be in a spool still
        return Subject(kind, client_request(value))
    with store.read() as connection:
        if connection.execute(sa.select(schema.keys.c.id).where(schema.keys.c.id == value)).scalar() is None:
            raise ErasureError(f"there is no key {value!r}; `stillroom keys list` shows them")
    return Subject(kind, value)


def _conversation(store: Store, value: str) -> str:
    backfill(store)
    table = schema.contents
    by_request = sa.select(table.c.conversation_id).where(table.c.request_id == value)
    by_id = requests_of("conversation_id", [value]).limit(1)
    with store.read() as connection:
        found = connection.execute(by_request).scalar()
        if found is None and connection.execute(by_id).scalar() is not None:
            found = value
    if found is None:
        raise ErasureError(f"there is no content of a request or conversation {value!r} (any more, or not yet)")
    if found == NAMELESS:
        raise ErasureError(f"{value!r} has no message of a user to tell its conversation by: erase the request alone")
    return found


def erase(store: Store, subject: Subject, actor: str, dry_run: bool = False) -> Erasure:
    """Delete the content, in batches, and flag the datasets that hold it; run again after a crash, it goes on.

    Labels, scores and sums stay. With ``dry_run`` nothing changes.
    """
    if subject.kind in ("user", "conversation"):
        backfill(store)
    at = now_ms()
    if not dry_run:
        with store.write() as connection:
            at = mark(connection, actor, str(subject))
    found = set(_requests(store, subject))
    kept_answers = sorted(_responses(store, subject, found))
    ids = sorted(found)
    quoting = _quoting(store, ids) if subject.kind == "request" else 0
    counts = [_count_contents(store, some) if dry_run else _erase_contents(store, some, at) for some in _batches(ids)]
    answers = [len(some) if dry_run else _erase_responses(store, some) for some in _batches(kept_answers)]
    erasure = Erasure(
        subject=str(subject),
        dry_run=dry_run,
        contents=sum(contents for contents, _ in counts),
        feedback=sum(feedback for _, feedback in counts),
        responses=sum(answers),
        quoting=quoting,
        holders=holders(store, [held.id for held in datasets.holding(store, ids)]),
    )
    if not dry_run:
        with store.write() as connection:
            audit(connection, actor, "content.erased", str(subject), _figures(erasure))
    return erasure


def _requests(store: Store, subject: Subject) -> Iterator[str]:
    """Their ids; of a user and a conversation those with content, since nothing else says whose it was."""
    if subject.kind == "request":
        yield from (subject.value, *(f"{subject.value}-{end}" for end in ENDS))
        yield from replays_of(store, [subject.value])
        return
    for some in _of_key(store, subject.value) if subject.kind == "key" else _of_owner(store, subject):
        # a row beside a request has its content, but not always what says whose it is
        for request_id in some:
            base = client_request(request_id)
            yield from (base, *(f"{base}-{end}" for end in ENDS))
        # of the key's requests, billed to another key
        yield from replays_of(store, some)


def _of_owner(store: Store, subject: Subject) -> Iterable[Sequence[str]]:
    with store.read() as connection:
        return _batches(connection.execute(requests_of(f"{subject.kind}_id", [subject.value])).scalars().all())


def _of_key(store: Store, key_id: str) -> Iterator[Sequence[str]]:
    table, last = schema.requests, ""
    while True:
        statement = sa.select(table.c.id).where(table.c.key_id == key_id, table.c.id > last).order_by(table.c.id)
        with store.read() as connection:
            some = connection.execute(statement.limit(BATCH)).scalars().all()
        if not some:
            return
        yield some
        last = some[-1]


def _responses(store: Store, subject: Subject, requests: set[str]) -> set[str]:
    """The ids of the kept answers to these requests, and of those that go on from them, which quote them.

    The requests of the latter are added to ``requests``.
    """
    table = schema.responses
    columns = (table.c.id, table.c.request_id, table.c.previous_id, table.c.key_id)
    found = set(_unlogged(store, subject.value)) if subject.kind == "user" else set[str]()
    with store.read() as connection:
        # an answer is older than those that go on from it
        rows = connection.execute(sa.select(*columns).order_by(table.c.created_at).execution_options(yield_per=1_000))
        for row in rows:
            owned = row.request_id in requests or row.id in found
            if owned or row.previous_id in found or (subject.kind == "key" and row.key_id == subject.value):
                found.add(row.id)
                requests.add(row.request_id)
    return found


def _unlogged(store: Store, user: str) -> Iterator[str]:
    """Kept answers of a user to requests without content in the ledger: they repeat who asked."""
    table, contents = schema.responses, schema.contents
    statement = (
        sa.select(table.c.id, table.c.body)
        .outerjoin(contents, contents.c.request_id == table.c.request_id)
        .where(contents.c.request_id.is_(None))
        .execution_options(yield_per=100)
    )
    with store.read() as connection:
        for row in connection.execute(statement):
            said = msgspec.json.decode(decompressed(row.body), type=_Kept).response
            if any(
                isinstance(name, str) and user_id_of(name) == user for name in (said.safety_identifier, said.user)
            ):
                yield row.id


class _Asked(msgspec.Struct):
    safety_identifier: Any = None
    user: Any = None


class _Kept(msgspec.Struct):
    response: _Asked


def _count_contents(store: Store, ids: Sequence[str]) -> tuple[int, int]:
    contents, said = schema.contents, schema.feedback
    texts = sa.and_(said.c.request_id.in_(ids), said.c.body.is_not(None))
    with store.read() as connection:
        return _count(connection, contents, contents.c.request_id.in_(ids)), _count(connection, said, texts)


def _erase_contents(store: Store, ids: Sequence[str], at: int) -> tuple[int, int]:
    """In one transaction with the flags of the datasets, so that no content is gone whose copies are not flagged."""
    contents, said = schema.contents, schema.feedback
    texts = sa.and_(said.c.request_id.in_(ids), said.c.body.is_not(None))
    held = [dataset.id for dataset in datasets.holding(store, ids)]
    with store.write() as connection:
        deleted = connection.execute(sa.delete(contents).where(contents.c.request_id.in_(ids))).rowcount
        emptied = connection.execute(sa.update(said).where(texts).values(body=None)).rowcount
        datasets.flag(connection, held, at)
    return int(deleted), int(emptied)


def _erase_responses(store: Store, ids: Sequence[str]) -> int:
    with store.write() as connection:
        return int(connection.execute(sa.delete(schema.responses).where(schema.responses.c.id.in_(ids))).rowcount)


def _quoting(store: Store, ids: Sequence[str]) -> int:
    """Requests of the same conversations as these with content of their own, as later turns have."""
    table = schema.contents
    conversations = sa.select(table.c.conversation_id).where(
        table.c.request_id.in_(ids), table.c.conversation_id != NAMELESS
    )
    others = requests_of("conversation_id", conversations).where(table.c.request_id.not_in(ids)).subquery()
    with store.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(others)).scalar_one())


def _figures(erasure: Erasure) -> dict[str, Any]:
    """For the audit."""
    held = erasure.holders
    erased = {"contents": erasure.contents, "feedback": erasure.feedback, "responses": erasure.responses}
    return {
        "before": erased,
        "after": dict.fromkeys(erased, 0),
        "datasets": [dataset.id for dataset in held.datasets],
        "releases": [release.id for release in held.releases],
    }


def _count(connection: sa.Connection, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(condition)).scalar_one())


def _batches(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
