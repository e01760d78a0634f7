"""Leases by name: of the processes that ask, one at a time holds it, and a dead one's passes on."""

import os
import secrets
import socket

import sqlalchemy as sa

from ledger import schema
from ledger.store import Store, insert_into, now_ms

__all__ = ("give_back", "new_owner", "take")


def new_owner() -> str:
    """A name for one holder of leases: this machine, this process, and one of several in it."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(4)}"


def take(store: Store, name: str, owner: str, lease_ms: int) -> bool:
    """Take a lease that is free or has run out, or renew one's own, for so long. Returns whether it is held now."""
    table = schema.leases
    with store.read() as connection:
        held = connection.execute(sa.select(table).where(table.c.name == name)).first()
    if held is not None and held.owner != owner and held.until >= now_ms():
        # so that those who wait do not write
        return False
    with store.write(None) as connection:
        # the time at which the lock is held: the store may have made us wait for it longer than a lease
        now = now_ms()
        values = {"owner": owner, "until": now + lease_ms}
        insert = insert_into(connection, table).values(name=name, **values)
        is_free = sa.or_(table.c.owner == owner, table.c.until < now)
        taken = insert.on_conflict_do_update(index_elements=["name"], set_=values, where=is_free)
        return connection.execute(taken.returning(table.c.name)).first() is not None


def give_back(store: Store, name: str, owner: str) -> None:
    """Let another have it at once. Nothing where it is not held."""
    table = schema.leases
    with store.write(None) as connection:
        connection.execute(sa.delete(table).where(table.c.name == name, table.c.owner == owner))
