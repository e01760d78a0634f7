"""What the router decided on and what is known of it since: the input of the estimates of `router/estimators.py`.

A label comes from a row beside the request's own (``-explore``: the teacher asked too; ``-shadow``: the student), or
of an abandoned attempt that was a whole answer. Feedback is no label here: who gives it chose to, by no known chance.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from ledger import schema
from ledger.store import Store
from ledger.unlabelled import TRIED

__all__ = ("DECIDED", "MAX_ROWS", "Observed", "least_propensity", "observed")

DECIDED: Final = ("confident", "hard", "low_confidence", "budget")
"""The reasons of requests whose route the router chose."""
MAX_ROWS: Final = 200_000
BATCH: Final = 2_000
IDS_AT_ONCE: Final = 500
TRUSTED: Final = ("judge", "explore", "shadow", "escalated", "likelihood")
"""Sources of labels with a known chance; the first of a request's counts."""


@dataclass(frozen=True, eq=False)
class Observed:
    """Arrays of shape (n,), newest request first; NaN where something is not known.

    `confidence` is of a request whose own route had it read, or whose shadow did; `tried`: the student was asked.
    `asked` says that both answers exist, `agreement` (0 to 1) how alike they are once compared. `propensity` is the
    probability of being `asked`, where it was, else NaN.
    """

    score: NDArray[np.float64]
    confidence: NDArray[np.float64]
    novelty: NDArray[np.float64]
    stream: NDArray[np.bool_]
    student: NDArray[np.bool_]
    tried: NDArray[np.bool_]
    asked: NDArray[np.bool_]
    agreement: NDArray[np.float64]
    propensity: NDArray[np.float64]
    tokens: NDArray[np.float64]
    """Shape (n, 3): prompt, completion and cached prompt tokens of the answer that was served."""

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which have a label, shape (n,)."""
        return ~np.isnan(self.agreement)

    def __len__(self) -> int:
        """How many requests."""
        return len(self.score)


def observed(store: Store, since: int = 0, release_id: str | None = None, most: int = MAX_ROWS) -> Observed:
    """The newest `most` requests since a time (ms) that the router decided on, of one release or of all.

    Only those that could be asked on the other side too: trainable, answered, and their content still kept.
    """
    columns: list[array[float]] = [array("d") for _ in range(12)]
    for row in _rows(store, since, release_id, most):
        for column, value in zip(columns, row, strict=True):
            column.append(np.nan if value is None else value)
    kept = [np.frombuffer(column) if column else np.zeros(0) for column in columns]
    return Observed(
        score=kept[0],
        confidence=kept[1],
        novelty=kept[2],
        stream=kept[3].astype(bool),
        student=kept[4].astype(bool),
        tried=kept[5].astype(bool),
        asked=kept[6].astype(bool),
        agreement=kept[7],
        propensity=kept[8],
        tokens=np.stack(kept[9:], axis=1),
    )


def least_propensity(store: Store) -> float | None:
    """The least chance by which a kept teacher's answer came to be asked for beside the student; None without one."""
    table, contents = schema.requests, schema.contents
    statement = (
        sa.select(sa.func.min(table.c.propensity))
        .join(contents, contents.c.request_id == table.c.id)
        .where(table.c.route == "teacher", table.c.reason == "explore", table.c.trainable, table.c.propensity > 0)
    )
    with store.read() as connection:
        return connection.execute(statement).scalar_one()


def _rows(store: Store, since: int, release_id: str | None, most: int) -> Iterator[tuple[Any, ...]]:
    """Newest first, each as the columns of `Observed`."""
    table, last = schema.requests, None
    while most > 0:
        statement = _decided(since, release_id).limit(min(BATCH, most))
        if last is not None:
            at, request_id = last.created_at, last.id
            # the first condition is the one that an index serves
            statement = statement.where(
                table.c.created_at <= at, sa.or_(table.c.created_at < at, table.c.id < request_id)
            )
        with store.read() as connection:
            rows = connection.execute(statement).all()
            beside = _beside(connection, rows[-1].created_at, rows[0].created_at) if rows else {}
            labels = _labels(connection, [row.id for row in rows])
        yield from (_columns(row, beside.get(row.id), labels.get(row.id)) for row in rows)
        if len(rows) < BATCH:
            return
        last, most = rows[-1], most - len(rows)


def _decided(since: int, release_id: str | None) -> sa.Select[Any]:
    table, contents = schema.requests, schema.contents
    names = ("id", "created_at", "route", "reason", "stream", "score", "confidence", "novelty")
    tokens = ("prompt_tokens", "completion_tokens", "cached_tokens")
    statement = (
        sa.select(*(table.c[name] for name in (*names, *tokens)))
        .join(contents, contents.c.request_id == table.c.id)
        .where(
            table.c.created_at >= since,
            table.c.reason.in_(DECIDED),
            table.c.score.is_not(None),
            table.c.status < 400,
            table.c.trainable,
        )
        .order_by(table.c.created_at.desc(), table.c.id.desc())
    )
    return statement if release_id is None else statement.where(table.c.release_id == release_id)


def _columns(row: Any, beside: Any, label: Any) -> tuple[Any, ...]:
    student = row.route == "student"
    whole_attempt = row.reason == "low_confidence" and not row.stream
    confidence = row.confidence
    if confidence is None and row.reason == "budget":
        # kept from the teacher before the student had said anything
        confidence = row.score
    elif confidence is None and beside is not None and not student:
        confidence = beside.confidence
    asked, propensity = (True, 1.0) if whole_attempt else (beside is not None, beside.propensity if beside else None)
    if label is not None:
        asked, propensity = True, label.propensity
    tried = student or row.reason == "low_confidence"
    head = (row.score, confidence, row.novelty, row.stream, student, tried, asked)
    tokens = (row.prompt_tokens, row.completion_tokens, row.cached_tokens)
    return (*head, label.agreement if label else None, propensity, *tokens)


def _beside(connection: sa.Connection, first: int, last: int) -> dict[str, Any]:
    """The rows beside requests of these times, which are their own too, by the request's id."""
    table = schema.requests
    statement = sa.select(table.c.id, table.c.confidence, table.c.propensity).where(
        table.c.created_at >= first,
        table.c.created_at <= last,
        table.c.reason == "explore",
        table.c.status < 400,
        # of another release, on trial
        ~table.c.id.like(f"%-{TRIED}"),
    )
    return {row.id.rpartition("-")[0]: row for row in connection.execute(statement)}


def _labels(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Any]:
    """The label that counts of each request that has one."""
    table = schema.labels
    statement = sa.select(table).where(table.c.source.in_(TRUSTED))
    rows = [row for some in _some(ids) for row in connection.execute(statement.where(table.c.request_id.in_(some)))]
    # the most trusted last, to stay
    rows.sort(key=lambda row: -TRUSTED.index(row.source))
    return {row.request_id: row for row in rows}


def _some(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + IDS_AT_ONCE] for start in range(0, len(ids), IDS_AT_ONCE))
