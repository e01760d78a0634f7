"""What the handlers of ``/admin/v1`` share: who asks, the body, changes of the ledger, and answers."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response

from gateway.errors import BadRequest, NotFound
from gateway.exchange import body_of as read_body
from gateway.wire import NotJson, decode_object
from ledger.datasets import DatasetError
from ledger.jobs import JobError
from ledger.keys import Key, KeyNameError, PolicyError, ScopeError
from ledger.releases import ReleaseError
from ledger.store import Store

__all__ = ("actor_of", "as_shape", "body_of", "json_answer", "run", "store_of")

T = TypeVar("T")


def store_of(request: Request[Any, Any, Any]) -> Store:
    """The ledger."""
    return request.app.state.store


def actor_of(request: Request[Any, Any, Any]) -> str:
    """Who asks, for the audit."""
    key: Key | None = request.scope["state"].get("key")
    return key.id if key else "local"


def json_answer(value: Any, status: int = 200) -> Response[bytes]:
    """The value as JSON."""
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


async def body_of(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The body, empty where none was sent. Raises `BadRequest`."""
    try:
        return decode_object(await read_body(request) or b"{}")
    except NotJson as error:
        raise _unreadable(error) from error


def as_shape(body: dict[str, Any], shape: type[T]) -> T:
    """The body as what a handler wants. Raises `BadRequest`."""
    try:
        return msgspec.convert(body, shape)
    except msgspec.ValidationError as error:
        raise _unreadable(error) from error


async def run(work: Callable[..., T], *args: Any) -> T:
    """Do something in the ledger, in a thread; what it refuses is the caller's mistake."""
    try:
        return await asyncio.to_thread(work, *args)
    except PolicyError as error:
        raise BadRequest(str(error), param=error.field) from error
    except ScopeError as error:
        raise BadRequest(str(error), param="scopes") from error
    except (DatasetError, JobError, KeyNameError, ReleaseError) as error:
        is_missing = str(error).startswith(("no ", "there is no "))
        raise (NotFound if is_missing else BadRequest)(str(error)) from error


def _unreadable(error: Exception) -> BadRequest:
    return BadRequest(f"We could not read the JSON body of your request: {error}")
