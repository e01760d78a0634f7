"""Labels: whether the student's answer to a request was as good as the teacher's, who says so, and by what chance.

``propensity`` is the probability with which this request came to be labelled, so that estimates are unbiased.
"""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from ledger import schema
from ledger.store import Store, insert_into

__all__ = ("Label", "add", "insert", "of_request")


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """``agreement`` is 0 to 1; a judge that cannot tell says 0.5.

    ``source``: the teacher was asked beside the student (``explore``) or the student beside the teacher (``shadow``),
    an attempt was abandoned (``escalated``), or people said so (``feedback``).
    """

    request_id: str
    source: str
    created_at: int
    release_id: str | None
    comparator: str
    agreement: float
    propensity: float


def add(store: Store, labels: Sequence[Label]) -> None:
    """Add them; of two for the same request and source the later one counts."""
    if labels:
        with store.write() as connection:
            insert(connection, labels)


def insert(connection: sa.Connection, labels: Sequence[Label]) -> None:
    """`add`, in a transaction that is under way. ``labels`` is not empty."""
    statement = insert_into(connection, schema.labels)
    changed = {name: statement.excluded[name] for name in ("created_at", "comparator", "agreement", "propensity")}
    statement = statement.on_conflict_do_update(index_elements=["request_id", "source"], set_=changed)
    connection.execute(statement, [msgspec.structs.asdict(label) for label in labels])


def of_request(store: Store, request_id: str) -> list[Label]:
    """All of one request, oldest first."""
    table = schema.labels
    statement = sa.select(table).where(table.c.request_id == request_id).order_by(table.c.created_at)
    with store.read() as connection:
        return [Label(**row) for row in connection.execute(statement).mappings()]
