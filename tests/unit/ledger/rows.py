"""Rows and stores for the ledger's tests."""

import contextlib
import tempfile
from collections.abc import Iterator
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
def a_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(sqlite_url(Path(folder)))
        try:
            yield store
        finally:
            store.close()


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
