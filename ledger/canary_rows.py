"""What the ledger has of a canary's two sides since it began: counts, times and labels of the requests of each.

A shadow's rows lie beside the client's: their ids end in `BESIDE`, their ``error_code`` is `NOT_KEPT` where the
candidate would have turned to the teacher.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from ledger import schema
from ledger.canaries import Canary
from ledger.store import Store
from ledger.unlabelled import TRIED

__all__ = ("BESIDE", "NOT_KEPT", "SHOWN", "SOURCE", "Side", "sides")

BESIDE: Final = f"-{TRIED}"
NOT_KEPT: Final = "not_kept"
SOURCE: Final = TRIED
"""The source of labels of a shadow's answers that were compared with the teacher's."""
SHOWN: Final = "shown"
"""And of those that were compared with the answer of the champion's student, which was shown."""
ESCALATED: Final = ("hard", "low_confidence", "budget")
"""The router wanted the teacher, whether or not the ceiling had room for it."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Side:
    """One release's requests that its router decided on.

    ``failed``: an error of 500 or more, or the teacher answered since the student failed. ``times_ms`` are whole
    milliseconds of the answers that the student gave, in rising order, each with how often it was seen.
    ``agreement`` and ``propensity`` are those of labels of the student's own answers, shape (labels,).
    """

    requests: int
    failed: int
    escalated: int
    times_ms: Floats
    times_seen: Floats
    agreement: Floats
    propensity: Floats


def sides(store: Store, canary: Canary) -> tuple[Side, Side]:
    """The champion's and the candidate's. Of the same conversations' requests each is counted on one side only."""
    requests = schema.requests
    if canary.mode == "canary":
        return _side(store, canary, canary.champion_id, _own()), _side(store, canary, canary.release_id, _own())
    beside = requests.alias()
    shadowed = sa.exists().where(beside.c.id == requests.c.id + BESIDE)
    champion = _side(store, canary, canary.champion_id, sa.and_(_own(), ~shadowed))
    return champion, _side(store, canary, canary.release_id, requests.c.id.like(f"%{BESIDE}"))


def _own() -> sa.ColumnElement[bool]:
    """Requests of clients on which a router decided."""
    return sa.and_(schema.requests.c.score.is_not(None), schema.requests.c.reason != "explore")


def _side(store: Store, canary: Canary, release_id: str, is_counted: sa.ColumnElement[bool]) -> Side:
    table = schema.requests
    counted = sa.and_(table.c.created_at >= canary.started_at, table.c.release_id == release_id, is_counted)
    with store.read() as connection:
        requests, failed, escalated = tuple(connection.execute(_counts(counted)).one())
        times = connection.execute(_times(counted)).all()
        labels = connection.execute(_labels(counted, release_id)).all()
    ms, seen = _columns(times)
    agreement, propensity = _columns(labels)
    return Side(requests, failed or 0, escalated or 0, ms, seen, agreement, propensity)


def _counts(counted: sa.ColumnElement[bool]) -> sa.Select[Any]:
    table = schema.requests
    failed = sa.or_(table.c.status >= 500, table.c.reason == "student_down")
    escalated = sa.or_(table.c.reason.in_(ESCALATED), table.c.error_code == NOT_KEPT)
    sums = (sa.func.sum(sa.case((each, 1), else_=0)) for each in (failed, escalated))
    return sa.select(sa.func.count(), *sums).where(counted)


def _times(counted: sa.ColumnElement[bool]) -> sa.Select[int, int]:
    table = schema.requests
    ms = sa.cast(table.c.latency_ms, sa.Integer).label("ms")
    answered = sa.and_(table.c.status < 400, table.c.route == "student", _kept())
    return sa.select(ms, sa.func.count()).where(counted, answered).group_by(ms).order_by(ms)


def _labels(counted: sa.ColumnElement[bool], release_id: str) -> sa.Select[Any, Any]:
    table, label = schema.requests, schema.labels
    drawn = sa.and_(label.c.release_id == release_id, label.c.source.in_(("explore", SOURCE)))
    return (
        sa.select(label.c.agreement, label.c.propensity)
        .join(table, table.c.id == label.c.request_id)
        .where(counted, drawn, table.c.route == "student", _kept())
    )


def _kept() -> sa.ColumnElement[bool]:
    """The answer was trusted, or would have been."""
    table = schema.requests
    beside = sa.and_(table.c.reason == "explore", table.c.error_code.is_(None))
    return sa.or_(table.c.reason == "confident", beside)


def _columns(rows: Any) -> tuple[Floats, Floats]:
    values = np.array([tuple(row) for row in rows], np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]
