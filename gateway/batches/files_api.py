"""The handlers of ``/v1/files``: upload, list, look up, read, delete. A file is its key's."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from litestar import Request, Response, delete, get, post
from litestar.datastructures import UploadFile
from litestar.response import Stream

from gateway.admin_requests import json_answer
from gateway.auth import opt
from gateway.batches.folder import new_file_id
from gateway.batches.shared import key_of, owned, page_of, seconds, whose
from gateway.errors import BadRequest, Conflict, NotFound
from ledger import batches, files
from ledger.files import File
from ledger.store import now_ms

__all__ = ("find", "handlers", "page")

DAY_S: Final = 86_400
LEAST_S: Final = 3_600
MAX_FILENAME: Final = 300
CHUNK: Final = 256 * 1024


@post("/v1/files", opt=opt("inference"), status_code=200)
async def create_file(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Upload a file of requests for a batch, as `multipart/form-data`."""
    form = await request.form()
    sent, purpose = form.get("file"), form.get("purpose")
    if not isinstance(sent, UploadFile):
        raise BadRequest("'file' must be a file in a body of multipart/form-data", param="file")
    if purpose != "batch":
        raise BadRequest("'purpose' must be batch", param="purpose")
    state, key, now = request.app.state, key_of(request), now_ms()
    keep_s = _keep_s(form.get("expires_after[seconds]"), state.lasting.admission.settings.batches.keep_days)
    file_id = new_file_id()
    await sent.seek(0)
    size = await asyncio.to_thread(state.files.save, file_id, sent.file)
    name = "".join(each for each in sent.filename if each.isprintable())[-MAX_FILENAME:] or "file.jsonl"
    file = File(file_id, now, key.id if key else None, name, "batch", size, now + round(keep_s * 1000))
    added = False
    try:
        await asyncio.to_thread(files.add, state.store, file)
        added = True
    finally:
        if not added:
            state.files.remove(file_id)
    return json_answer(shown(file))


@get("/v1/files", opt=opt("inference"))
async def list_files(request: Request[Any, Any, Any]) -> Response[bytes]:
    """This key's files, newest first: of one `purpose`, where it is given."""
    limit, after = page_of(request.query_params, 10_000)
    purpose = request.query_params.get("purpose") or None
    if purpose is not None and "\0" in purpose:
        raise BadRequest("'purpose' must be a purpose", param="purpose")
    read = partial(files.page, request.app.state.store, limit + 1, after, whose(request), purpose)
    found = await asyncio.to_thread(read)
    return json_answer(page([shown(file) for file in found], limit))


@get("/v1/files/{file_id:str}", opt=opt("inference"))
async def show_file(request: Request[Any, Any, Any], file_id: str) -> Response[bytes]:
    """A file of this key."""
    return json_answer(shown(await find(request, file_id)))


@get("/v1/files/{file_id:str}/content", opt=opt("inference"))
async def file_content(request: Request[Any, Any, Any], file_id: str) -> Stream:
    """What is in a file of this key."""
    file = await find(request, file_id)
    path: Path = request.app.state.files.of(file.id)
    if not await asyncio.to_thread(path.exists):
        raise NotFound(
            "This file is not on this gateway: gateways that share a ledger must share their folder of files."
        )
    return Stream(_read(path), media_type="application/octet-stream")


@delete("/v1/files/{file_id:str}", opt=opt("inference"), status_code=200)
async def delete_file(request: Request[Any, Any, Any], file_id: str) -> Response[bytes]:
    """Delete a file of this key, unless a batch still reads it."""
    file, state = await find(request, file_id), request.app.state
    if await asyncio.to_thread(batches.holds, state.store, file.id):
        raise Conflict("A batch that is not over reads this file.", code="file_in_use")
    await asyncio.to_thread(files.delete, state.store, file.id)
    await asyncio.to_thread(state.files.remove, file.id)
    return json_answer({"id": file.id, "object": "file", "deleted": True})


handlers: Final = (create_file, list_files, show_file, file_content, delete_file)


async def find(request: Request[Any, Any, Any], file_id: str, param: str = "file_id") -> File:
    """Raises `NotFound` for another key's file as for one that does not exist."""
    return await owned(request, files.get, file_id, NotFound(f"No such File object: {file_id[:100]}", param=param))


def shown(file: File) -> dict[str, Any]:
    """As OpenAI shows it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": seconds(file.created_at),
        "expires_at": seconds(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def page(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page of a list, of one more than the limit where there is so much."""
    data = found[:limit]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, **ends, "has_more": len(found) > limit}


def _keep_s(wanted: Any, keep_days: float) -> float:
    most = keep_days * DAY_S
    if wanted is None:
        return most
    if not (
        isinstance(wanted, str) and wanted.isascii() and wanted.isdecimal() and LEAST_S <= int(wanted[:12]) <= most
    ):
        message = f"'expires_after[seconds]' must be a whole number from {LEAST_S} to {int(most)}"
        raise BadRequest(message, param="expires_after")
    return float(wanted)


async def _read(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
