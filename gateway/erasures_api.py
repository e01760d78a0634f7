"""``POST /admin/v1/erasures``: delete what someone said, and learn who holds a copy of it."""

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, post

from gateway.admin_requests import actor_of, as_shape, body_of, json_answer, store_of
from gateway.auth import opt
from gateway.errors import BadRequest, NotFound
from ledger.erasure import KINDS, Erasure, ErasureError, Kind, erase, resolve
from ledger.store import Store

__all__ = ("NewErasure", "handlers")


class NewErasure(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /admin/v1/erasures``: one of the first four, by name or id."""

    user: str | None = None
    conversation: str | None = None
    request: str | None = None
    key: str | None = None
    dry_run: bool = False


@post("/admin/v1/erasures", opt=opt("admin"), status_code=200)
async def create_erasure(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Delete the content of a user, a conversation, a request or a key; rows, scores and sums stay.

    Datasets that hold a copy are flagged and listed, with the releases that learned from them.
    """
    wanted = as_shape(await body_of(request), NewErasure)
    named: list[tuple[Kind, str]] = [(kind, getattr(wanted, kind)) for kind in KINDS if getattr(wanted, kind)]
    if len(named) != 1:
        raise BadRequest("name one of 'user', 'conversation', 'request' and 'key'")
    try:
        done = await asyncio.to_thread(_erase, store_of(request), named[0], actor_of(request), wanted.dry_run)
    except ErasureError as error:
        raise NotFound(str(error), param=named[0][0]) from error
    return json_answer(done)


def _erase(store: Store, named: tuple[Kind, str], actor: str, dry_run: bool) -> Erasure:
    return erase(store, resolve(store, *named), actor, dry_run)


handlers = [create_erasure]
