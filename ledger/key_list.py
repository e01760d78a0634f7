"""Keys page by page, by filters, and when each was last used.

All keys are read at once: gateways hold them all anyway, and what is asked of their policies lies in JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from ledger import keys, schema
from ledger.keys import Key, KeyNameError
from ledger.requests import HOUR_MS
from ledger.store import Store, now_ms

__all__ = ("LOOKED_BACK_MS", "STATES", "KeyFilters", "State", "keys_page", "last_hours", "state_of")

LOOKED_BACK_MS: Final = 90 * 24 * HOUR_MS
"""How far back `last_hours` looks."""
State: TypeAlias = Literal["active", "expired", "revoked"]
STATES: Final[tuple[State, ...]] = ("active", "expired", "revoked")


@dataclass(frozen=True, slots=True)
class KeyFilters:
    """Which keys; None takes all. ``name`` is a part of a name or of an id, whatever its case."""

    name: str | None = None
    owner: str | None = None
    tag: str | None = None
    scope: str | None = None
    state: str | None = None

    def take(self, key: Key, now: int) -> bool:
        """Whether a key is one of them at a time (ms)."""
        policy = key.policy
        return (
            (self.name is None or self.name.casefold() in f"{key.name}\n{key.id}".casefold())
            and (self.owner is None or policy.owner == self.owner)
            and (self.tag is None or self.tag in policy.tags)
            and (self.scope is None or self.scope in key.scopes)
            and (self.state is None or state_of(key, now) == self.state)
        )


def state_of(key: Key, now: int) -> State:
    """At a time (ms)."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def keys_page(store: Store, filters: KeyFilters, limit: int, after: str | None = None) -> list[Key]:
    """Keys that the filters take, newest first, those behind the key of the id ``after``. Raises `KeyNameError`."""
    now = now_ms()
    found = sorted(keys.list_keys(store), key=_place, reverse=True)
    if after is not None:
        last = next((key for key in found if key.id == after), None)
        if last is None:
            raise KeyNameError(f"there is no key {after!r}")
        found = [key for key in found if _place(key) < _place(last)]
    return [key for key in found if filters.take(key, now)][:limit]


def last_hours(store: Store, key_ids: Sequence[str], now: int) -> dict[str, int]:
    """The hour (ms) in which each key was used last, of those used in the `LOOKED_BACK_MS` before a time (ms)."""
    table = schema.usage_hourly
    statement = (
        sa.select(table.c.key_id, sa.func.max(table.c.hour))
        .where(table.c.hour >= now - LOOKED_BACK_MS, table.c.key_id.in_(key_ids))
        .group_by(table.c.key_id)
    )
    with store.read() as connection:
        return {key_id: int(hour) for key_id, hour in connection.execute(statement)}


def _place(key: Key) -> tuple[int, str]:
    return key.created_at, key.id
