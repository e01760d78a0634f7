"""Rows and stores for the ledger's tests."""

import contextlib
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ledger.records import Content, RequestRecord
from ledger.releases import Release
from ledger.store import Store, open_store, sqlite_url

INT64 = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(st.text(max_size=8), JSON, max_size=4)
CONTENT = st.builds(
    Content,
    messages=st.lists(OBJECT, max_size=3),
    parameters=OBJECT,
    answer=st.text(),
    student_answer=st.none() | st.text(),
    teacher_logprobs=st.none() | st.lists(OBJECT, max_size=2),
)


@contextlib.contextmanager
def sqlite_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(sqlite_url(Path(folder)))
        try:
            yield store
        finally:
            store.close()


_kind: ContextVar[Callable[[], AbstractContextManager[Store]]] = ContextVar("_kind", default=sqlite_store)
"""Of the store that the running test is for."""


def a_store() -> AbstractContextManager[Store]:
    """A new store of the running test's kind."""
    return _kind.get()()


@contextlib.contextmanager
def stores_of(make: Callable[[], AbstractContextManager[Store]]) -> Iterator[None]:
    """Have `a_store` make another kind."""
    token = _kind.set(make)
    yield
    _kind.reset(token)


def plan_of(cursor: Any, statement: str, values: Any = None, bitmaps: bool = False) -> str:
    """How a query would be answered, in the database's own words, were the tables large."""
    is_sqlite = isinstance(cursor, sqlite3.Cursor)
    if not is_sqlite:
        # of a few rows, whose statistics may come at any time: it sorts only what no index has in order
        cursor.execute(f"SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = {bitmaps}")
        cursor.execute(f"SET LOCAL enable_sort = off; SET LOCAL enable_indexscan = {not bitmaps}")
    found = cursor.execute(f"EXPLAIN {'QUERY PLAN' if is_sqlite else ''} {statement}", values or ())
    return " / ".join(step[-1] for step in found.fetchall())


def sorts(plan: str) -> bool:
    """Whether the rows have to be put in order first."""
    return "TEMP B-TREE" in plan or "Sort" in plan


def row(request_id: str, **values: Any) -> RequestRecord:
    """A teacher's answer that may be trained on, unless the values say otherwise."""
    content = Content(messages=[{"role": "user", "content": f"question {request_id}"}], answer=f"answer {request_id}")
    usual: dict[str, Any] = {
        "created_at": 1_000,
        "route": "teacher",
        "reason": "hard",
        "finish_reason": "stop",
        "content": content,
    }
    return RequestRecord(id=request_id, **(usual | values))


def release(release_id: str, parent: str | None = None, created_at: int = 0) -> Release:
    return Release(release_id, "candidate", created_at, None, parent, None, f"/releases/{release_id}", "0" * 64, {})
