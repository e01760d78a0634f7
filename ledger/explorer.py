"""Pages of requests, newest first, by filters.

A page begins after the last row of the one before (its *place*), so that its cost does not grow with how far back it
lies. What no index answers is looked for among a bounded number of rows: a page may come back short, and say how far
back it looked; the next one goes on from there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import zstandard

from ledger import schema
from ledger.audit import record as audit
from ledger.records import decompressed
from ledger.store import Store

__all__ = ("MAX_LIMIT", "TEXT_WINDOW", "WINDOW", "Filters", "Page", "Place", "Wanted", "note_search", "page")

MAX_LIMIT: Final = 500
WINDOW: Final = 50_000
"""So many rows are looked through for one page by filters without an index."""
TEXT_WINDOW: Final = 2_000
"""So many where their content is read."""
FETCHED: Final = 200
MAX_DIGITS: Final = 18

_table = schema.requests
_at, _id = _table.c.created_at, _table.c.id
_newest_first: Final = (_at.desc(), _id.desc())


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which requests; the default takes all. Times are ms since the epoch, texts are matched whole but for `text`."""

    id: str = ""
    since: int | None = None
    until: int | None = None
    """Requests before it."""
    key: str = ""
    """A key's id."""
    route: str = ""
    reason: str = ""
    status: str = ""
    """``ok`` (below 400), ``error``, or a number."""
    finish: str = ""
    tag: str = ""
    model: str = ""
    """As the client named it."""
    release: str = ""
    score_min: float | None = None
    score_max: float | None = None
    text: str = ""
    """Anywhere in the messages or the answers; case does not count."""


@dataclass(frozen=True, slots=True)
class Place:
    """Between two rows: a page that begins here has the rows before it. ``id`` may be empty."""

    created_at: int
    id: str

    def __str__(self) -> str:
        """For an address; `Place.read` reads it."""
        return f"{self.created_at}-{self.id}"

    @staticmethod
    def read(text: str) -> "Place":
        """Raises ``ValueError`` for what is none."""
        at, dash, request_id = text.partition("-")
        known = dash and at.isascii() and at.isdecimal() and len(at) <= MAX_DIGITS
        if not known or len(request_id) > 64 or "\0" in request_id:
            raise ValueError("it is no place in the list: take the one that the page before gave")
        return Place(int(at), request_id)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which page: ``before`` a place, or the newest. ``window`` is the number of rows to look through at most."""

    before: Place | None = None
    limit: int = 50
    window: int | None = None
    """None: `WINDOW`, or `TEXT_WINDOW`."""


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of ``requests`` by their columns' names, without content."""

    rows: list[dict[str, Any]]
    next: Place | None
    """Where the next page begins; None where there is nothing before this one."""
    looked: int | None = None
    """Of a page that ended before it was full: how many rows were looked through."""


def page(store: Store, filters: Filters, wanted: Wanted) -> Page:
    """The newest requests before a place that the filters take."""
    with store.read() as connection:
        looked, floor = _window(connection, filters, wanted)
        statement = sa.select(_table).where(*_indexed(filters, wanted), *_others(filters)).order_by(*_newest_first)
        if floor is not None:
            statement = statement.where(_at >= floor)
        found = _read(connection, statement, filters, wanted.limit + 1)
    if len(found) > wanted.limit:
        last = found[wanted.limit - 1]
        return Page(found[: wanted.limit], Place(last["created_at"], last["id"]))
    return Page(found, None if floor is None else Place(floor, ""), looked)


def note_search(store: Store, actor: str, filters: Filters, found: Page) -> None:
    """Write into the audit that content was searched; what was looked for may itself be content and stays out."""
    detail = {"found": len(found.rows), "looked": found.looked, "characters": len(filters.text)}
    with store.write() as connection:
        audit(connection, actor, "content.search", "requests", detail)


def _read(connection: sa.Connection, statement: sa.Select[Any], filters: Filters, limit: int) -> list[dict[str, Any]]:
    if not filters.text:
        return [dict(row) for row in connection.execute(statement.limit(limit)).mappings()]
    contents, needle = schema.contents, filters.text.casefold()
    statement = statement.add_columns(contents.c.body).join(contents, contents.c.request_id == _id)
    found: list[dict[str, Any]] = []
    with connection.execution_options(yield_per=FETCHED).execute(statement) as rows:
        for row in rows.mappings():
            values = dict(row)
            if _says(values.pop("body"), needle):
                found.append(values)
            if len(found) == limit:
                break
    return found


def _window(connection: sa.Connection, filters: Filters, wanted: Wanted) -> tuple[int | None, int | None]:
    """How many rows are looked through, and the time of the oldest of them, None where that is the end."""
    if filters.id or not (filters.text or any(True for _ in _others(filters))):
        return None, None
    size = wanted.window or (TEXT_WINDOW if filters.text else WINDOW)
    walked = sa.select(_at).where(*_indexed(filters, wanted)).order_by(*_newest_first).limit(size).subquery()
    counted, oldest = connection.execute(sa.select(sa.func.count(), sa.func.min(walked.c.created_at))).one()
    return counted, oldest if counted == size else None


def _indexed(filters: Filters, wanted: Wanted) -> Iterator[sa.ColumnElement[bool]]:
    """What an index answers in the order of the pages."""
    if filters.id:
        yield _id == filters.id
    if filters.since is not None:
        yield _at >= filters.since
    if filters.until is not None:
        yield _at < filters.until
    if filters.route:
        yield _table.c.route == filters.route
    if wanted.before is not None:
        yield sa.tuple_(_at, _id) < sa.tuple_(sa.literal(wanted.before.created_at), sa.literal(wanted.before.id))


def _others(filters: Filters) -> Iterator[sa.ColumnElement[bool]]:
    """What is read off each row."""
    equal = {"key_id": filters.key, "reason": filters.reason, "finish_reason": filters.finish}
    equal |= {"model": filters.model, "release_id": filters.release}
    yield from (_table.c[name] == value for name, value in equal.items() if value)
    if filters.status in ("ok", "error"):
        yield _table.c.status < 400 if filters.status == "ok" else _table.c.status >= 400
    elif filters.status:
        yield _table.c.status == int(filters.status)
    if filters.score_min is not None:
        yield _table.c.score >= filters.score_min
    if filters.score_max is not None:
        yield _table.c.score <= filters.score_max
    if filters.tag:
        # the two databases search JSON in different ways, and LIKE differs in case; this is the same in both
        written = sa.cast(_table.c.tags, sa.Text)
        yield sa.func.replace(written, json.dumps(filters.tag), "") != written


class _Said(msgspec.Struct):
    """Of a content, what is searched; its log-probabilities are passed over unread."""

    messages: list[dict[str, Any]]
    answer: str = ""
    student_answer: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    student_tool_calls: list[dict[str, Any]] | None = None


_decoder = msgspec.json.Decoder(_Said)


def _says(body: bytes, needle: str) -> bool:
    try:
        written = decompressed(body)
        # most contents are passed over without being decoded; beyond ASCII, what is written folds to other letters
        if written.isascii() and msgspec.json.encode(needle)[1:-1] not in written.lower():
            return False
        said = _decoder.decode(written)
    except (msgspec.MsgspecError, zstandard.ZstdError):
        return False
    return any(needle in text.casefold() for text in _texts(said))


def _texts(said: _Said) -> Iterator[str]:
    yield said.answer
    yield said.student_answer or ""
    for message in said.messages:
        content = message.get("content")
        parts = [content] if isinstance(content, str) else content if isinstance(content, list) else []
        for part in parts:
            text = part.get("text") if isinstance(part, Mapping) else part
            if isinstance(text, str):
                yield text
        yield from _arguments(message.get("tool_calls"))
    yield from _arguments(said.tool_calls)
    yield from _arguments(said.student_tool_calls)


def _arguments(calls: Any) -> Iterator[str]:
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            yield from (str(function.get(part) or "") for part in ("name", "arguments"))
