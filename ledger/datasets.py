"""The registry of datasets: which folder each is in, and which requests it holds, so that none is forgotten."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa

from ledger import schema
from ledger.newest import behind, newest_first
from ledger.store import Store, insert_into

__all__ = (
    "Dataset",
    "DatasetError",
    "Filters",
    "add",
    "datasets_page",
    "flag",
    "get",
    "holding",
    "latest",
    "list_datasets",
)

ROWS_AT_ONCE: Final = 1_000
IDS_AT_ONCE: Final = 500


class DatasetError(ValueError):
    """A dataset that does not exist."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which datasets; None takes all."""

    job_id: str | None = None
    flagged: bool | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """What one job, or one run of ``distill data``, took from the ledger. Times are milliseconds since the epoch."""

    id: str
    created_at: int
    job_id: str | None
    folder: str
    content_hash: str
    manifest: dict[str, Any]
    flagged_at: int | None = None
    """When content that it holds was erased; None where that never happened."""


def add(store: Store, dataset: Dataset, rows: Iterable[tuple[str, bool]]) -> None:
    """Record a dataset with its rows, ``(request id, held out)`` each: all of it or nothing, in flat memory.

    One of the same id is replaced, since a job that is taken up again may build its dataset a second time.
    """
    table, members = schema.datasets, schema.dataset_rows
    left = iter(rows)
    with store.write() as connection:
        connection.execute(sa.delete(members).where(members.c.dataset_id == dataset.id))
        connection.execute(sa.delete(table).where(table.c.id == dataset.id))
        connection.execute(sa.insert(table).values({f: getattr(dataset, f) for f in Dataset.__slots__}))
        insert = insert_into(connection, members).on_conflict_do_nothing()
        while some := list(islice(left, ROWS_AT_ONCE)):
            values = [{"dataset_id": dataset.id, "request_id": row, "held_out": held_out} for row, held_out in some]
            connection.execute(insert, values)


def get(store: Store, dataset_id: str) -> Dataset | None:
    """One dataset by its id, or None."""
    return _first(store, sa.select(schema.datasets).where(schema.datasets.c.id == dataset_id))


def latest(store: Store) -> Dataset | None:
    """The newest dataset, or None before the first."""
    return _first(store, _newest_first().limit(1))


def list_datasets(store: Store, limit: int = 100) -> list[Dataset]:
    """The newest datasets, newest first."""
    with store.read() as connection:
        return [Dataset(*row) for row in connection.execute(_newest_first().limit(limit))]


def datasets_page(store: Store, filters: Filters, limit: int, after: str | None = None) -> list[Dataset]:
    """Datasets that the filters take, newest first, those behind the one named ``after``. Raises `DatasetError`."""
    table = schema.datasets
    statement = _newest_first().limit(limit)
    if filters.job_id is not None:
        statement = statement.where(table.c.job_id == filters.job_id)
    if filters.flagged is not None:
        statement = statement.where(table.c.flagged_at.is_not(None) == filters.flagged)
    with store.read() as connection:
        if after is not None:
            place = behind(connection, table, after)
            if place is None:
                raise DatasetError(f"there is no dataset {after!r}")
            statement = statement.where(place)
        return [Dataset(*row) for row in connection.execute(statement)]


def holding(store: Store, request_ids: Sequence[str]) -> list[Dataset]:
    """The datasets that hold any of these requests, to train on or held out; newest first."""
    table, members = schema.datasets, schema.dataset_rows
    found: set[str] = set()
    with store.read() as connection:
        for start in range(0, len(request_ids), IDS_AT_ONCE):
            some = request_ids[start : start + IDS_AT_ONCE]
            statement = sa.select(members.c.dataset_id).where(members.c.request_id.in_(some)).distinct()
            found.update(connection.execute(statement).scalars())
        rows = connection.execute(_newest_first().where(table.c.id.in_(found))) if found else ()
        return [Dataset(*row) for row in rows]


def flag(connection: sa.Connection, dataset_ids: Sequence[str], at: int) -> None:
    """Mark datasets as holding what was erased, within the caller's transaction; the first time stays."""
    table = schema.datasets
    connection.execute(
        sa.update(table).where(table.c.id.in_(dataset_ids), table.c.flagged_at.is_(None)).values(flagged_at=at)
    )


def _newest_first() -> sa.Select[Any]:
    return sa.select(schema.datasets).order_by(*newest_first(schema.datasets))


def _first(store: Store, statement: sa.Select[Any]) -> Dataset | None:
    with store.read() as connection:
        row = connection.execute(statement).first()
    return Dataset(*row) if row is not None else None
