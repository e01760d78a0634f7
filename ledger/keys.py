"""API keys: 256 random bits shown once, stored as their SHA-256."""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ledger import schema
from ledger.audit import record as audit
from ledger.store import Store, now_ms

__all__ = (
    "SCOPES",
    "Key",
    "KeyNameError",
    "ScopeError",
    "create",
    "digest",
    "list_keys",
    "load_active",
    "revoke",
)

SCOPES: Final = ("inference", "read", "admin")
PREFIX: Final = "sk-stillroom-"


class ScopeError(ValueError):
    """A scope that does not exist."""


class KeyNameError(ValueError):
    """A key that is not there, or not unique by the name given."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as everyone but its holder sees it."""

    id: str
    name: str
    last4: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None
    revoked_at: int | None


def digest(secret: str) -> str:
    """SHA-256 of the key in hex. The key has 256 bits of entropy, so a slow hash would protect nothing more."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create(
    store: Store, name: str, scopes: Iterable[str], actor: str, expires_at: int | None = None
) -> tuple[Key, str]:
    """Make a key. Returns it and its secret, which is not kept anywhere. Raises `ScopeError`."""
    chosen = tuple(dict.fromkeys(scopes))
    unknown = [scope for scope in chosen if scope not in SCOPES]
    if unknown or not chosen:
        raise ScopeError(f"unknown scope {', '.join(unknown) or '(none given)'}; the scopes are {', '.join(SCOPES)}")
    secret = PREFIX + secrets.token_urlsafe(32)
    key = Key(f"key_{secrets.token_hex(8)}", name, secret[-4:], chosen, now_ms(), expires_at, None)
    with store.write() as connection:
        connection.execute(
            sa.insert(schema.keys).values(
                id=key.id,
                name=name,
                digest=digest(secret),
                last4=key.last4,
                scopes=list(chosen),
                created_at=key.created_at,
                expires_at=expires_at,
            )
        )
        audit(connection, actor, "key.create", key.id, {"name": name, "scopes": list(chosen)})
    return key, secret


def list_keys(store: Store) -> list[Key]:
    """All keys, revoked ones too, oldest first."""
    with store.read() as connection:
        rows = connection.execute(sa.select(schema.keys).order_by(schema.keys.c.created_at)).mappings()
        return [_key(row) for row in rows]


def load_active(store: Store) -> dict[str, Key]:
    """The keys that are not revoked, by digest. Expiry is for the caller to check, as it passes while cached."""
    with store.read() as connection:
        rows = connection.execute(sa.select(schema.keys).where(schema.keys.c.revoked_at.is_(None))).mappings()
        return {row["digest"]: _key(row) for row in rows}


def revoke(store: Store, id_or_name: str, actor: str) -> Key:
    """Revoke a key by its id, or by its name where that is unique. Raises `KeyNameError`."""
    found = [key for key in list_keys(store) if id_or_name in (key.id, key.name) and key.revoked_at is None]
    if len(found) != 1:
        problem = "no active key" if not found else f"{len(found)} active keys"
        raise KeyNameError(f"{problem} named {id_or_name!r}; `stillroom keys list` shows the ids")
    with store.write() as connection:
        connection.execute(sa.update(schema.keys).where(schema.keys.c.id == found[0].id).values(revoked_at=now_ms()))
        audit(connection, actor, "key.revoke", found[0].id, {"name": found[0].name})
    return found[0]


def _key(row: sa.RowMapping) -> Key:
    values: dict[str, Any] = {
        name: row[name] for name in ("id", "name", "last4", "created_at", "expires_at", "revoked_at")
    }
    return Key(scopes=tuple(row["scopes"]), **values)
