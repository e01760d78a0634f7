"""The handlers of ``/admin/v1/keys``."""

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, get, patch, post

from gateway.admin_requests import actor_of, as_shape, body_of, json_answer, run, store_of
from gateway.auth import opt
from gateway.paging import limit_of, listed, text_of
from ledger import keys
from ledger.key_list import KeyFilters, keys_page
from ledger.keys import Key
from ledger.policies import FIELDS, KeyPolicy, expiry, policy_of
from ledger.records import NANO, nano
from ledger.spending import spent_by
from ledger.store import Store, now_ms

__all__ = ("KeyRotation", "NewKey", "handlers", "spend_of")


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


def _create(store: Store, body: dict[str, Any], actor: str) -> tuple[Key, str]:
    policy = policy_of({name: value for name, value in body.items() if name in FIELDS})
    wanted = as_shape(body | msgspec.to_builtins(policy), NewKey)
    expires_at = None if wanted.expires_at is None else expiry(wanted.expires_at)
    return keys.create(store, wanted.name, wanted.scopes, actor, expires_at, policy=policy)


@get("/admin/v1/keys", opt=opt("admin"))
async def list_keys(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Keys, newest first, without their secrets.

    `name` is a part of a name or of an id; `owner`, `tag`, `scope` and `state` (active, expired, revoked) are whole.
    """
    query = request.query_params
    filters = KeyFilters(**{name: text_of(query, name) for name in ("name", "owner", "tag", "scope", "state")})
    limit, after = limit_of(query), text_of(query, "after")
    return listed(await run(keys_page, store_of(request), filters, limit + 1, after), limit)


@post("/admin/v1/keys", opt=opt("admin"))
async def create_key(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Make a key; its secret is in this answer and nowhere else."""
    key, secret = await run(_create, store_of(request), await body_of(request), actor_of(request))
    return _with_secret(key, secret, 201)


@get("/admin/v1/keys/{key_id:str}", opt=opt("admin"))
async def show_key(request: Request[Any, Any, Any], key_id: str) -> Response[bytes]:
    """A key with its policy, and what it spent today and this month."""
    key = await run(keys.get, store_of(request), key_id)
    return json_answer({"key": key, "spend": await asyncio.to_thread(spend_of, store_of(request), key)})


@patch("/admin/v1/keys/{key_id:str}", opt=opt("admin"))
async def update_key(request: Request[Any, Any, Any], key_id: str) -> Response[bytes]:
    """Change some fields of a key's policy; null sets one back. Gateways follow within a second."""
    changes = await body_of(request)
    return json_answer(await run(keys.update_policy, store_of(request), key_id, changes, actor_of(request)))


@post("/admin/v1/keys/{key_id:str}/rotate", opt=opt("admin"), status_code=200)
async def rotate_key(request: Request[Any, Any, Any], key_id: str) -> Response[bytes]:
    """Give a key a new secret, which is in this answer and nowhere else; the old one works a while longer."""
    wanted = as_shape(await body_of(request), KeyRotation)
    key, secret = await run(keys.rotate, store_of(request), key_id, wanted.overlap_seconds, actor_of(request))
    return _with_secret(key, secret, 200)


@post("/admin/v1/keys/{key_id:str}/revoke", opt=opt("admin"))
async def revoke_key(request: Request[Any, Any, Any], key_id: str) -> Response[bytes]:
    """Revoke a key; gateways stop taking it within a second."""
    return json_answer(await run(keys.revoke, store_of(request), key_id, actor_of(request)))


def _with_secret(key: Key, secret: str, status: int) -> Response[bytes]:
    answer = json_answer({"key": key, "secret": secret}, status)
    answer.headers["cache-control"] = "no-store"
    return answer


handlers = [list_keys, create_key, show_key, update_key, rotate_key, revoke_key]
