"""The handlers of ``/v1/batches``: create, look up, list, cancel."""

import asyncio
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from litestar import Request, Response, get, post

from gateway.admin_requests import body_of, json_answer
from gateway.auth import opt
from gateway.batches.files_api import find as find_file
from gateway.batches.files_api import page
from gateway.batches.line import ENDPOINTS
from gateway.batches.shared import key_of, owned, page_of, seconds, whose
from gateway.errors import BadRequest, NotFound
from ledger import batches
from ledger.batches import Batch
from ledger.rollups import DAY_MS
from ledger.store import now_ms

__all__ = ("handlers",)

MAX_METADATA: Final = 16
MAX_NAME: Final = 64
MAX_VALUE: Final = 512
TIMES: Final = (
    "created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at",
    "cancelling_at", "cancelled_at",
)  # fmt: skip


@post("/v1/batches", opt=opt("inference"), status_code=200)
async def create_batch(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Have the requests of an uploaded file asked, within a day, when nobody else needs the models."""
    body = await body_of(request)
    endpoint, file_id = body.get("endpoint"), body.get("input_file_id")
    if endpoint not in ENDPOINTS:
        raise BadRequest(f"'endpoint' must be one of {', '.join(ENDPOINTS)}", param="endpoint")
    if not isinstance(file_id, str):
        raise BadRequest("'input_file_id' must be the id of a file", param="input_file_id")
    if body.get("completion_window") != "24h":
        raise BadRequest("'completion_window' must be 24h", param="completion_window")
    metadata = _metadata(body.get("metadata"))
    file = await find_file(request, file_id, "input_file_id")
    if file.purpose != "batch":
        raise BadRequest("The file's purpose must be batch.", param="input_file_id")
    key, now = key_of(request), now_ms()
    batch = Batch(
        id=f"batch_{secrets.token_hex(12)}",
        created_at=now,
        key_id=key.id if key else None,
        endpoint=endpoint,
        input_file_id=file.id,
        completion_window="24h",
        status="validating",
        expires_at=now + DAY_MS,
        metadata=metadata,
    )
    await asyncio.to_thread(batches.add, request.app.state.store, batch)
    return json_answer(shown(batch))


@get("/v1/batches", opt=opt("inference"))
async def list_batches(request: Request[Any, Any, Any]) -> Response[bytes]:
    """This key's batches, newest first."""
    limit, after = page_of(request.query_params)
    read = partial(batches.page, request.app.state.store, limit + 1, after, whose(request))
    found = await asyncio.to_thread(read)
    return json_answer(page([shown(batch) for batch in found], limit))


@get("/v1/batches/{batch_id:str}", opt=opt("inference"))
async def show_batch(request: Request[Any, Any, Any], batch_id: str) -> Response[bytes]:
    """A batch of this key, and how far it is."""
    return json_answer(shown(await _find(request, batch_id)))


@post("/v1/batches/{batch_id:str}/cancel", opt=opt("inference"), status_code=200)
async def cancel_batch(request: Request[Any, Any, Any], batch_id: str) -> Response[bytes]:
    """Ask no more lines of a batch of this key; what was answered is in its files."""
    batch, store = await _find(request, batch_id), request.app.state.store
    change = partial(batches.change, status="cancelling", cancelling_at=now_ms())
    if not await asyncio.to_thread(change, store, batch.id, ("validating", "in_progress")):
        current = await _find(request, batch_id)
        if current.status not in ("cancelling", "cancelled"):
            raise BadRequest(f"A batch that is {current.status} cannot be cancelled.", param="batch_id")
    return json_answer(shown(await _find(request, batch_id)))


handlers: Final = (create_batch, list_batches, show_batch, cancel_batch)


def shown(batch: Batch) -> dict[str, Any]:
    """As OpenAI shows it."""
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": None if batch.errors is None else {"object": "list", "data": batch.errors},
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        **{name: seconds(getattr(batch, name)) for name in TIMES},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata,
    }


async def _find(request: Request[Any, Any, Any], batch_id: str) -> Batch:
    refusal = NotFound(f"No batch found with id '{batch_id[:100]}'.", param="batch_id")
    return await owned(request, batches.get, batch_id, refusal)


def _metadata(given: Any) -> dict[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or len(given) > MAX_METADATA or not all(map(_is_pair, given.items())):
        raise BadRequest(
            f"'metadata' must be an object of at most {MAX_METADATA} strings, of {MAX_VALUE} characters at most",
            param="metadata",
        )
    return dict(given)


def _is_pair(pair: tuple[Any, Any]) -> bool:
    name, value = pair
    return len(name) <= MAX_NAME and isinstance(value, str) and len(value) <= MAX_VALUE
