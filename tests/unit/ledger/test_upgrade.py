"""A ledger of the first schema is brought to the newest: its rows are there, and a step back keeps them too."""

from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from tests.unit.ledger.test_store import migrate

# SQLite's reflection passes over indexes of expressions, which are not looked at here
pytestmark = pytest.mark.filterwarnings("ignore:.*expression-based index")

FIRST = "0001"
ROWS = 3
TEXTS = {"keys.scopes": ["inference"], "requests.status": 200}
"""What readers of these columns expect, where any value of their type would not do."""


def value(column: sa.Column[Any], n: int) -> Any:
    """Something of the column's type that the rows do not share."""
    named = TEXTS.get(f"{column.table.name}.{column.name}")
    if named is not None:
        return named
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return n % 2 == 0
    if isinstance(kind, sa.Integer):
        return 1_700_000_000_000 + n if isinstance(kind, sa.BigInteger) else n
    if isinstance(kind, sa.Float | sa.Numeric):
        return n / 4
    if isinstance(kind, sa.JSON):
        return {"n": n}
    return bytes([n]) if isinstance(kind, sa.LargeBinary) else f"{n}-{column.name}"[: kind.length]


def filled(connection: sa.Connection) -> dict[str, list[dict[str, Any]]]:
    """Put `ROWS` rows into every table; what the tables hold then."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    for table in metadata.sorted_tables:
        if table.name != "alembic_version":
            rows = [{column.name: value(column, n) for column in table.columns} for n in range(1, ROWS + 1)]
            connection.execute(sa.insert(table), rows)
    return held(connection)


def held(connection: sa.Connection) -> dict[str, list[dict[str, Any]]]:
    metadata = sa.MetaData()
    metadata.reflect(connection)
    return {
        table.name: [
            dict(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key)).mappings()
        ]
        for table in metadata.sorted_tables
        if table.name != "alembic_version"
    }


@pytest.fixture
def first(store) -> dict[str, list[dict[str, Any]]]:
    """The store set back to the first schema, with rows in every table."""
    migrate(store, "base", command.downgrade)
    migrate(store, FIRST)
    with store.write() as connection:
        return filled(connection)


def changed(store, before: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Values that are others now. A row, a column or a table that is gone is an error."""
    with store.read() as connection:
        now = held(connection)
    return [
        f"{table}.{name}: {was!r} became {new[name]!r}"
        for table, rows in before.items()
        for old, new in zip(rows, now[table], strict=True)
        for name, was in old.items()
        if new[name] != was
    ]


def test_a_ledger_of_the_first_schema_keeps_its_rows_in_the_newest(store, first):
    assert len(first) > 8
    assert all(len(rows) == ROWS for rows in first.values())
    migrate(store, "head")
    assert changed(store, first) == []


def test_all_the_way_down_and_up_again_keeps_them(store, first):
    migrate(store, "head")
    migrate(store, FIRST, command.downgrade)
    with store.read() as connection:
        assert held(connection) == first
    migrate(store, "head")
    assert changed(store, first) == []


def test_a_step_down_and_up_again_keeps_them(store, first):
    migrate(store, "head")
    migrate(store, "-1", command.downgrade)
    assert changed(store, first) == []
    migrate(store, "head")
    assert changed(store, first) == []
