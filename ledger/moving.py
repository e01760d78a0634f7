"""Moves a ledger from one store to another, table by table, and proves that the other has the same rows.

Rows go over in the order of their primary key, a batch in a transaction, so that what is there says how far it came:
begun again, it goes on from there. A table that is not the same at the end was changed meanwhile, and is moved anew.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import DataError

from ledger import schema
from ledger.store import Store, insert_into, now_ms

__all__ = ("LEFT_OUT", "MoveError", "Moved", "Say", "move")

BATCH: Final = 2_000
BATCH_OF_BODIES: Final = 100
LEFT_OUT: Final = ("leases", "replicas")
"""What running processes say of themselves; they say it again."""
MARK: Final = "moving"
"""The lease that says that a store is being filled, and from which."""

Say = Callable[[str, int, int], None]
"""Is told the table, how many of its rows are there, and of how many."""


class MoveError(Exception):
    """It cannot be moved there; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A table as both stores have it. ``mended``: rows with text that PostgreSQL does not take, made shorter or
    without NUL.
    """

    table: str
    rows: int
    mended: int
    hash: str


def move(source: Store, target: Store, origin: str, say: Say) -> list[Moved]:
    """Move everything. ``origin`` names the source, so that no two are mixed. No one writes to the source meanwhile.

    Raises `MoveError` for a target that holds something else, and where the rows differ at the end.
    """
    _claim(target, hashlib.sha256(origin.encode()).hexdigest())
    # a writer there waits, or keeps what it has in its spool
    with source.write() as reading:
        found = [_moved(reading, target, table, say) for table in _tables()]
    _number_on(target)
    with target.write() as connection:
        connection.execute(sa.delete(schema.leases).where(schema.leases.c.name == MARK))
    return found


def _tables() -> list[sa.Table]:
    return [table for name, table in sorted(schema.metadata.tables.items()) if name not in LEFT_OUT]


def _claim(target: Store, origin: str) -> None:
    leases = schema.leases
    with target.write() as connection:
        owner = connection.execute(sa.select(leases.c.owner).where(leases.c.name == MARK)).scalar()
        if owner == origin:
            return
        if owner is not None:
            raise MoveError("another ledger is being moved there: go on with that one, or take an empty database")
        holds = [table.name for table in _tables() if _count(connection, table)]
        if holds:
            raise MoveError(f"the database there is in use ({', '.join(holds)} have rows): take an empty one")
        connection.execute(sa.insert(leases).values(name=MARK, owner=origin, until=now_ms()))


def _moved(reading: sa.Connection, target: Store, table: sa.Table, say: Say) -> Moved:
    total = _count(reading, table)
    for anew in (False, True):
        if anew:
            with target.write() as connection:
                connection.execute(sa.delete(table))
        _copy(reading, target, table, total, say)
        here, mended = _digest(reading, table)
        with target.read() as connection:
            rows = _count(connection, table)
            there, _ = _digest(connection, table)
        if (rows, there) == (total, here):
            return Moved(table.name, rows, mended, here)
    raise MoveError(f"{table.name} differs after it was moved: {rows} rows of {total}, hash {there} and not {here}")


def _copy(reading: sa.Connection, target: Store, table: sa.Table, total: int, say: Say) -> None:
    with target.read() as connection:
        last, done = _last(connection, table), _count(connection, table)
    say(table.name, done, total)
    for rows in _batches(reading, _behind(reading, table, last), table):
        try:
            with target.write(None) as connection:
                # a batch may have been committed as its confirmation was lost
                insert = insert_into(connection, table).on_conflict_do_nothing()
                connection.execute(insert, [_mended(table, row)[0] for row in rows])
        except DataError as error:
            raise MoveError(f"{table.name}: {str(error.orig).splitlines()[0]}") from error
        done += len(rows)
        say(table.name, done, total)


def _behind(connection: sa.Connection, table: sa.Table, last: tuple[Any, ...] | None) -> sa.Select[Any]:
    """The rows after the last one that was moved, in order."""
    key = _by_bytes(connection, table)
    statement = sa.select(table).order_by(*key)
    if last is None:
        return statement
    after = [sa.literal(value, column.type) for value, column in zip(last, table.primary_key, strict=True)]
    return statement.where(sa.tuple_(*key) > sa.tuple_(*after))


def _batches(connection: sa.Connection, statement: sa.Select[Any], table: sa.Table) -> Iterator[list[dict[str, Any]]]:
    """What is read, as it comes: no index of PostgreSQL has SQLite's order, so that asked for batch after batch it
    would sort the table each time.
    """
    has_bodies = any(isinstance(column.type, sa.LargeBinary) for column in table.columns)
    streamed = {"yield_per": BATCH_OF_BODIES if has_bodies else BATCH}
    with connection.execute(statement, execution_options=streamed) as found:
        for rows in found.mappings().partitions():
            yield [dict(row) for row in rows]


def _last(connection: sa.Connection, table: sa.Table) -> tuple[Any, ...] | None:
    """The primary key up to which it was moved."""
    key = _by_bytes(connection, table)
    found = connection.execute(
        sa.select(*table.primary_key).order_by(*(each.desc() for each in key)).limit(1)
    ).first()
    return tuple(found) if found else None


def _by_bytes(connection: sa.Connection, table: sa.Table) -> list[sa.ColumnElement[Any]]:
    """The primary key as SQLite orders it; elsewhere the order of text is a language's."""
    is_text = {column.name: isinstance(column.type, sa.String) for column in table.primary_key}
    if connection.dialect.name == "sqlite":
        return list(table.primary_key)
    return [sa.collate(column, "C") if is_text[column.name] else column for column in table.primary_key]


def _digest(connection: sa.Connection, table: sa.Table) -> tuple[str, int]:
    """Of all rows in whatever order, and how many had to be mended: the sum of the rows' hashes."""
    total = mended = 0
    for row in itertools.chain.from_iterable(_batches(connection, sa.select(table), table)):
        values, was_mended = _mended(table, row)
        mended += was_mended
        written = msgspec.msgpack.encode([_plain(values[column.name]) for column in table.columns])
        total += int.from_bytes(hashlib.blake2b(written, digest_size=16).digest(), "big")
    return f"{total % 2**128:032x}", mended


def _plain(value: Any) -> Any:
    # what JSON holds may have its keys in another order
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value


def _mended(table: sa.Table, row: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The row as PostgreSQL takes it: text without NUL, and no longer than its column. SQLite never minded."""
    values, changed = dict(row), False
    for column in table.columns:
        value = values[column.name]
        if isinstance(value, str) and isinstance(column.type, sa.String):
            values[column.name] = value.replace("\0", "")[: column.type.length]
            changed = changed or values[column.name] != value
    return values, changed


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def _number_on(target: Store) -> None:
    """Have numbered tables number on behind the rows that came with their numbers."""
    if target.engine.dialect.name != "postgresql":
        return
    numbered = [table for table in _tables() if table.c[0].autoincrement is True]
    with target.write() as connection:
        for table in numbered:
            highest = connection.execute(sa.select(sa.func.max(table.c[0]))).scalar()
            if highest is not None:
                sequence = sa.func.pg_get_serial_sequence(table.name, table.c[0].name)
                connection.execute(sa.select(sa.func.setval(sequence, highest)))
