"""The handlers of ``/admin/v1/keys``."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response, get, patch, post

from gateway.auth import opt
from gateway.errors import BadRequest, NotFound
from gateway.wire import NotJson, decode_object
from ledger import keys
from ledger.keys import Key
from ledger.policies import FIELDS, KeyPolicy, PolicyError, expiry, policy_of
from ledger.records import NANO, nano
from ledger.spending import spent_by
from ledger.store import Store, now_ms

__all__ = ("KeyRotation", "NewKey", "handlers", "spend_of")

T = TypeVar("T")


class NewKey(KeyPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /admin/v1/keys``: the policy's fields beside these."""

    name: str
    scopes: tuple[str, ...] = ("inference",)
    expires_at: str | float | None = None
    """RFC 3339, or seconds since 1970."""


class KeyRotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /admin/v1/keys/{key_id}/rotate``."""

    overlap_seconds: float = 3600.0
    """How long the old secret works beside the new one; 0: not at all."""


def spend_of(store: Store, key: Key) -> dict[str, dict[str, float | None]]:
    """What a key spent today and this month (UTC), its budgets, and what remains of them; in currency units."""
    spent, policy = spent_by(store, key.id, now_ms()), key.policy
    return {
        period: {
            "spent": used / NANO,
            "budget": budget,
            "remaining": None if budget is None else max(0, nano(budget) - used) / NANO,
        }
        for period, used, budget in (
            ("day", spent.day, policy.budget_day),
            ("month", spent.month, policy.budget_month),
        )
    }


def _store(request: Request[Any, Any, Any]) -> Store:
    return request.app.state.store


def _actor(request: Request[Any, Any, Any]) -> str:
    key: Key | None = request.scope["state"].get("key")
    return key.id if key else "local"


def _json(value: Any, status: int = 200) -> Response[bytes]:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


async def _run(change: Callable[..., T], *args: Any) -> T:
    """Run something of the ledger in a thread; what it refuses is the caller's mistake."""
    try:
        return await asyncio.to_thread(change, *args)
    except PolicyError as error:
        raise BadRequest(str(error), param=error.field) from error
    except keys.ScopeError as error:
        raise BadRequest(str(error), param="scopes") from error
    except keys.KeyNameError as error:
        raise (NotFound if str(error).startswith("no ") else BadRequest)(str(error)) from error


async def _object(request: Request[Any, Any, Any]) -> dict[str, Any]:
    try:
        return decode_object(await request.body() or b"{}")
    except NotJson as error:
        raise BadRequest(f"We could not read the JSON body of your request: {error}") from error


def _create(store: Store, body: dict[str, Any], actor: str) -> tuple[Key, str]:
    policy = policy_of({name: value for name, value in body.items() if name in FIELDS})
    try:
        wanted = msgspec.convert(body | msgspec.to_builtins(policy), NewKey)
    except msgspec.ValidationError as error:
        raise BadRequest(f"We could not read the JSON body of your request: {error}") from error
    expires_at = None if wanted.expires_at is None else expiry(wanted.expires_at)
    return keys.create(store, wanted.name, wanted.scopes, actor, expires_at, policy=policy)


@get("/admin/v1/keys", opt=opt("admin"))
async def list_keys(request: Request[Any, Any, Any]) -> Response[bytes]:
    """All keys, without their secrets."""
    return _json({"data": await asyncio.to_thread(keys.list_keys, _store(request))})


@post("/admin/v1/keys", opt=opt("admin"))
async def create_key(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Make a key; its secret is in this answer and nowhere else."""
    key, secret = await _run(_create, _store(request), await _object(request), _actor(request))
    return _json({"key": key, "secret": secret}, 201)


@get("/admin/v1/keys/{key_id:str}", opt=opt("admin"))
async def show_key(request: Request[Any, Any, Any], key_id: str) -> Response[bytes]:
    """A key with its policy, and what it spent today and this month."""
    key = await _run(keys.get, _store(request), key_id)
    return _json({"key": key, "spend": await asyncio.to_thread(spend_of, _store(request), key)})


@patch("/admin/v1/keys/{key_id:str}", opt=opt("admin"))
async def update_key(request: Request[Any, Any, Any], key_id: str) -> Response[bytes]:
    """Change some fields of a key's policy; null sets one back. Gateways follow within a second."""
    changes = await _object(request)
    return _json(await _run(keys.update_policy, _store(request), key_id, changes, _actor(request)))


@post("/admin/v1/keys/{key_id:str}/rotate", opt=opt("admin"), status_code=200)
async def rotate_key(request: Request[Any, Any, Any], key_id: str) -> Response[bytes]:
    """Give a key a new secret, which is in this answer and nowhere else; the old one works a while longer."""
    try:
        wanted = msgspec.convert(await _object(request), KeyRotation)
    except msgspec.ValidationError as error:
        raise BadRequest(f"We could not read the JSON body of your request: {error}") from error
    key, secret = await _run(keys.rotate, _store(request), key_id, wanted.overlap_seconds, _actor(request))
    return _json({"key": key, "secret": secret})


@post("/admin/v1/keys/{key_id:str}/revoke", opt=opt("admin"))
async def revoke_key(request: Request[Any, Any, Any], key_id: str) -> Response[bytes]:
    """Revoke a key; gateways stop taking it within a second."""
    return _json(await _run(keys.revoke, _store(request), key_id, _actor(request)))


handlers = [list_keys, create_key, show_key, update_key, rotate_key, revoke_key]
