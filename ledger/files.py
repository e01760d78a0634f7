"""The ``files`` table: what clients uploaded for batches, and what batches wrote. The bytes lie in a folder."""

import msgspec
import sqlalchemy as sa

from ledger import schema
from ledger.newest import behind, newest_first
from ledger.store import Store

__all__ = ("File", "add", "delete", "expired", "get", "insert", "known", "page")

_table = schema.files


class File(msgspec.Struct, frozen=True):
    """A file as the store knows it. Times are ms since the epoch."""

    id: str
    created_at: int
    key_id: str | None
    filename: str
    purpose: str
    bytes: int
    expires_at: int


def add(store: Store, file: File) -> None:
    """Add a file whose bytes are there."""
    with store.write() as connection:
        insert(connection, file)


def insert(connection: sa.Connection, file: File) -> None:
    """The same within the caller's transaction."""
    connection.execute(sa.insert(_table).values(msgspec.structs.asdict(file)))


def get(store: Store, file_id: str) -> File | None:
    """A file by its id, or None."""
    with store.read() as connection:
        row = connection.execute(sa.select(_table).where(_table.c.id == file_id)).first()
    return File(*row) if row else None


def page(
    store: Store, limit: int, after: str | None = None, key_id: str | None = None, purpose: str | None = None
) -> list[File]:
    """Files newest first: of one key, where it is given, and of one purpose."""
    wanted = sa.select(_table).order_by(*newest_first(_table)).limit(limit)
    wanted = wanted if key_id is None else wanted.where(_table.c.key_id == key_id)
    wanted = wanted if purpose is None else wanted.where(_table.c.purpose == purpose)
    with store.read() as connection:
        beyond = behind(connection, _table, after) if after else None
        rows = connection.execute(wanted if beyond is None else wanted.where(beyond)).all()
    return [File(*row) for row in rows]


def delete(store: Store, file_id: str) -> bool:
    """Forget a file. Returns whether there was one."""
    with store.write() as connection:
        return bool(connection.execute(sa.delete(_table).where(_table.c.id == file_id)).rowcount)


def expired(store: Store, now: int, limit: int) -> list[str]:
    """Ids of files whose time is over."""
    with store.read() as connection:
        return list(
            connection.execute(sa.select(_table.c.id).where(_table.c.expires_at <= now).limit(limit)).scalars()
        )


def known(store: Store, ids: list[str]) -> set[str]:
    """Those of these ids that the store has."""
    with store.read() as connection:
        return set(connection.execute(sa.select(_table.c.id).where(_table.c.id.in_(ids))).scalars())
