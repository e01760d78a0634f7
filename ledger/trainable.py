"""The requests that may be trained on, by filters, streamed oldest first or fetched by id, in bounded memory."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from ledger import schema
from ledger.feedback import correction_in
from ledger.records import Content, decode_content
from ledger.request_filters import TrainableFilters
from ledger.store import Store

__all__ = (
    "EVERYTHING",
    "fetch_trainable",
    "gone_from",
    "newest_trainable",
    "stream_trainable",
    "times_of_trainable",
)

IDS_AT_ONCE: Final = 500
EVERYTHING: Final = TrainableFilters()


def stream_trainable(
    store: Store, since: int = 0, batch: int = 1_000, filters: TrainableFilters = EVERYTHING
) -> Iterator[tuple[dict[str, Any], Content]]:
    """The requests whose answer may be trained on, oldest first, in bounded memory.

    The content was kept and the caller did not opt out, and the teacher answered in full (``answered`` in the values)
    or the newest feedback has a correction (``corrected``), whoever answered and how it ended: then the content's
    answer is the correction, without the teacher's log-probabilities. ``feedback_score`` is the newest feedback's,
    ``agreement`` the least that a label says of the student's answer to the same request, None without one.
    """
    table = schema.requests
    last_at, last_id = max(since, filters.since), ""
    while True:
        after = sa.or_(table.c.created_at > last_at, sa.and_(table.c.created_at == last_at, table.c.id > last_id))
        statement = _trainable(filters).where(table.c.created_at >= last_at, after)
        with store.read() as connection:
            rows = connection.execute(statement.limit(batch)).mappings().all()
        yield from _read(rows, filters)
        if len(rows) < batch:
            return
        last_at, last_id = rows[-1]["created_at"], rows[-1]["id"]


def fetch_trainable(store: Store, ids: Sequence[str]) -> dict[str, tuple[dict[str, Any], Content]]:
    """Those of the requests that may still be trained on, as `stream_trainable` gives them, by id."""
    found: dict[str, tuple[dict[str, Any], Content]] = {}
    for start in range(0, len(ids), IDS_AT_ONCE):
        statement = _trainable(EVERYTHING).where(schema.requests.c.id.in_(ids[start : start + IDS_AT_ONCE]))
        with store.read() as connection:
            rows = connection.execute(statement).mappings().all()
        found |= {values["id"]: (values, content) for values, content in _read(rows, EVERYTHING)}
    return found


def newest_trainable(store: Store, limit: int) -> list[str]:
    """The ids of the newest requests whose answer by the teacher may be trained on, newest first."""
    table, contents = schema.requests, schema.contents
    statement = (
        sa.select(table.c.id)
        .join(contents, contents.c.request_id == table.c.id)
        .where(table.c.route == "teacher", table.c.trainable, table.c.status < 400, table.c.finish_reason == "stop")
        .order_by(table.c.created_at.desc(), table.c.id.desc())
        .limit(limit)
    )
    with store.read() as connection:
        return list(connection.execute(statement).scalars())


def gone_from(store: Store, dataset_id: str) -> int:
    """How many requests of a registered dataset have no content any more, since it was erased or has expired."""
    members, contents = schema.dataset_rows, schema.contents
    statement = (
        sa.select(sa.func.count())
        .select_from(members.outerjoin(contents, contents.c.request_id == members.c.request_id))
        .where(members.c.dataset_id == dataset_id, contents.c.request_id.is_(None))
    )
    with store.read() as connection:
        return int(connection.execute(statement).scalar_one())


def times_of_trainable(store: Store, filters: TrainableFilters = EVERYTHING) -> tuple[int, int] | None:
    """When the first and the last of them were asked, about; None where there are none."""
    table, contents = schema.requests, schema.contents
    statement = (
        sa.select(sa.func.min(contents.c.created_at), sa.func.max(contents.c.created_at))
        .join(table, contents.c.request_id == table.c.id)
        .where(table.c.trainable, *_conditions(filters))
    )
    with store.read() as connection:
        first, last = connection.execute(statement).one()
    return None if first is None else (first, last)


def _read(rows: Sequence[sa.RowMapping], filters: TrainableFilters) -> Iterator[tuple[dict[str, Any], Content]]:
    wanted = set(filters.tags)
    for row in rows:
        # tags are JSON, which the two databases search in different ways
        if wanted and wanted.isdisjoint(row["tags"]):
            continue
        values = dict(row)
        body, correction = values.pop("body"), correction_in(values.pop("feedback_body"))
        values["corrected"] = correction is not None
        if not (values["corrected"] or values["answered"]):
            continue
        content = decode_content(body)
        if correction is not None:
            content = msgspec.structs.replace(content, answer=correction, teacher_logprobs=None)
        yield values, content


def _trainable(filters: TrainableFilters) -> sa.Select[Any]:
    """Each with its newest feedback."""
    table, said, newer = schema.requests, schema.feedback, schema.feedback.alias()
    newest = (
        sa.select(sa.func.max(newer.c.id)).where(newer.c.request_id == table.c.id).correlate(table).scalar_subquery()
    )
    label = schema.labels
    # of a row asked beside a request, the label is about that request
    asked = sa.func.replace(table.c.id, "-explore", "")
    agreement = sa.select(sa.func.min(label.c.agreement)).where(label.c.request_id == asked).scalar_subquery()
    answered = sa.and_(table.c.status < 400, table.c.route == "teacher", table.c.finish_reason == "stop")
    statement = (
        sa.select(
            table,
            # null where there is no finish_reason
            sa.func.coalesce(answered, sa.false()).label("answered"),
            schema.contents.c.body,
            said.c.score.label("feedback_score"),
            said.c.body.label("feedback_body"),
            agreement.label("agreement"),
        )
        .join(schema.contents, schema.contents.c.request_id == table.c.id)
        .outerjoin(said, said.c.id == newest)
        .where(table.c.trainable, sa.or_(answered, said.c.body.is_not(None)), *_conditions(filters))
        .order_by(table.c.created_at, table.c.id)
    )
    return statement if filters.min_feedback is None else statement.where(said.c.score >= filters.min_feedback)


def _conditions(filters: TrainableFilters) -> list[sa.ColumnElement[bool]]:
    table = schema.requests
    lists: dict[str, tuple[str, ...]] = {
        "key_id": filters.keys,
        "route": filters.routes,
        "reason": filters.reasons,
        "finish_reason": filters.finish_reasons,
    }
    conditions: list[sa.ColumnElement[bool]] = [table.c[name].in_(values) for name, values in lists.items() if values]
    if filters.since:
        conditions.append(table.c.created_at >= filters.since)
    if filters.until is not None:
        conditions.append(table.c.created_at < filters.until)
    return conditions
