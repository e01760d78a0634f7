"""API keys: 256 random bits shown once, stored as their SHA-256; a policy each; rotated, revoked, audited."""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from ledger import schema
from ledger.audit import record as audit
from ledger.policies import UNBOUND, KeyPolicy, PolicyError, name_of, policy_of, read_policy
from ledger.store import Store, now_ms

__all__ = (
    "SCOPES",
    "Key",
    "KeyNameError",
    "KeyPolicy",
    "PolicyError",
    "ScopeError",
    "create",
    "digest",
    "get",
    "list_keys",
    "load_active",
    "revoke",
    "rotate",
    "update_policy",
)

SCOPES: Final = ("inference", "read", "admin")
PREFIX: Final = "sk-stillroom-"
MAX_OVERLAP_S: Final = 90 * 24 * 3600


class ScopeError(ValueError):
    """A scope that does not exist."""


class KeyNameError(ValueError):
    """A key that is not there, or not unique by the name given."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as everyone but its holder sees it. Times are ms since the epoch."""

    id: str
    name: str
    last4: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    policy: KeyPolicy = UNBOUND
    previous_until: int | None = None
    """Until when the secret before the last rotation is taken too."""


def digest(secret: str) -> str:
    """SHA-256 of the key in hex. The key has 256 bits of entropy, so a slow hash would protect nothing more."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create(  # noqa: PLR0913 a policy is a key's own, beside what every key has
    store: Store,
    name: str,
    scopes: Iterable[str],
    actor: str,
    expires_at: int | None = None,
    *,
    policy: KeyPolicy = UNBOUND,
) -> tuple[Key, str]:
    """Make a key. Returns it and its secret, which is not kept anywhere. Raises `ScopeError` or `PolicyError`."""
    chosen = tuple(dict.fromkeys(scopes))
    unknown = [scope for scope in chosen if scope not in SCOPES]
    if unknown or not chosen:
        raise ScopeError(f"unknown scope {', '.join(unknown) or '(none given)'}; the scopes are {', '.join(SCOPES)}")
    # checked again, since a struct that a program builds is not
    checked = policy_of(_builtins(policy))
    secret = _new_secret()
    key = Key(f"key_{secrets.token_hex(8)}", name_of(name), secret[-4:], chosen, now_ms(), expires_at, None, checked)
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
                policy=_builtins(checked),
            )
        )
        told = {"scopes": list(chosen), "expires_at": expires_at, "policy": _builtins(checked)}
        made = {"name": name} | {field: value for field, value in told.items() if value}
        audit(connection, actor, "key.create", key.id, {"name": name, "before": None, "after": made})
    return key, secret


def list_keys(store: Store) -> list[Key]:
    """All keys, revoked ones too, oldest first."""
    with store.read() as connection:
        return _all(connection)


def get(store: Store, id_or_name: str) -> Key:
    """A key, revoked or not, by its id, or by its name where that is unique. Raises `KeyNameError`."""
    with store.read() as connection:
        found = [key for key in _all(connection) if id_or_name in (key.id, key.name)]
    return _only(found, id_or_name, "key")


def load_active(store: Store) -> dict[str, Key]:
    """The keys that are not revoked, by digest. Expiry is for the caller to check, as it passes while cached: a
    secret from before a rotation is a key that expires when the overlap ends.
    """
    with store.read() as connection:
        rows = connection.execute(sa.select(schema.keys).where(schema.keys.c.revoked_at.is_(None))).mappings().all()
    active: dict[str, Key] = {}
    for row in rows:
        active[row["digest"]] = key = _key(row)
        if row["previous_digest"] is not None:
            ends = row["previous_until"]
            until = ends if key.expires_at is None else min(ends, key.expires_at)
            active[row["previous_digest"]] = replace(key, expires_at=until)
    return active


def update_policy(store: Store, id_or_name: str, changes: Mapping[str, Any], actor: str) -> Key:
    """Change some fields of an active key's policy; None sets a field back to its default.

    Raises `KeyNameError` or `PolicyError`.
    """
    with store.write() as connection:
        key = _active(connection, id_or_name)
        policy = policy_of(_builtins(key.policy) | dict(changes))
        _update(connection, key, policy=_builtins(policy))
        change = {"before": _builtins(key.policy), "after": _builtins(policy)}
        audit(connection, actor, "key.update", key.id, {"name": key.name, **change})
    return replace(key, policy=policy)


def rotate(store: Store, id_or_name: str, overlap_seconds: float, actor: str) -> tuple[Key, str]:
    """Give an active key a new secret, which is returned and not kept. The old one works ``overlap_seconds`` longer;
    one from a rotation before that ends at once.

    Raises `KeyNameError` or `PolicyError`.
    """
    if not 0 <= overlap_seconds <= MAX_OVERLAP_S:
        raise PolicyError("overlap_seconds", f"must be between 0 and {MAX_OVERLAP_S}")
    secret = _new_secret()
    until = now_ms() + round(overlap_seconds * 1000) if overlap_seconds else None
    old = schema.keys.c.digest if until else None
    with store.write() as connection:
        key = _active(connection, id_or_name)
        _update(
            connection,
            key,
            previous_digest=old,
            previous_until=until,
            digest=digest(secret),
            last4=secret[-4:],
        )
        # neither secret is told: what can be said of the change is until when the old one is taken
        change = {"before": {"previous_until": key.previous_until}, "after": {"previous_until": until}}
        audit(connection, actor, "key.rotate", key.id, {"name": key.name, **change})
    return replace(key, last4=secret[-4:], previous_until=until), secret


def revoke(store: Store, id_or_name: str, actor: str) -> Key:
    """Revoke a key with all its secrets, by its id, or by its name where that is unique. Raises `KeyNameError`."""
    with store.write() as connection:
        key = _active(connection, id_or_name)
        now = now_ms()
        _update(connection, key, revoked_at=now, previous_digest=None, previous_until=None)
        change = {
            "before": {"revoked_at": None, "previous_until": key.previous_until},
            "after": {"revoked_at": now, "previous_until": None},
        }
        audit(connection, actor, "key.revoke", key.id, {"name": key.name, **change})
    return key


def _new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _active(connection: sa.Connection, id_or_name: str) -> Key:
    found = [key for key in _all(connection) if id_or_name in (key.id, key.name) and key.revoked_at is None]
    return _only(found, id_or_name, "active key")


def _only(found: list[Key], id_or_name: str, kind: str) -> Key:
    if len(found) != 1:
        problem = f"no {kind}" if not found else f"{len(found)} {kind}s"
        raise KeyNameError(f"{problem} named {id_or_name!r}; `stillroom keys list` shows the ids")
    return found[0]


def _all(connection: sa.Connection) -> list[Key]:
    rows = connection.execute(sa.select(schema.keys).order_by(schema.keys.c.created_at)).mappings()
    return [_key(row) for row in rows]


def _update(connection: sa.Connection, key: Key, **values: Any) -> None:
    connection.execute(sa.update(schema.keys).where(schema.keys.c.id == key.id).values(values))


def _builtins(policy: KeyPolicy) -> dict[str, Any]:
    return msgspec.to_builtins(policy)


def _key(row: sa.RowMapping) -> Key:
    names = ("id", "name", "last4", "created_at", "expires_at", "revoked_at", "previous_until")
    values: dict[str, Any] = {name: row[name] for name in names}
    return Key(scopes=tuple(row["scopes"]), policy=read_policy(row["policy"]), **values)
