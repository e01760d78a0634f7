"""The handlers of ``/admin/v1``: jobs, releases, one request with the reason for its route; and those of keys."""

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, get, post

from gateway import keys_api
from gateway.auth import opt
from gateway.errors import BadRequest, NotFound
from ledger import feedback, jobs, releases, requests
from ledger.store import Store

__all__ = ("handlers",)


class NewJob(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /admin/v1/jobs``."""

    note: str = ""


def _store(request: Request[Any, Any, Any]) -> Store:
    return request.app.state.store


def _actor(request: Request[Any, Any, Any]) -> str:
    key = request.scope["state"].get("key")
    return key.id if key else "local"


def _json(value: Any, status: int = 200) -> Response[bytes]:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


async def _change(change: Any, *args: Any) -> Any:
    """Run a change of the ledger in a thread; what it refuses is the caller's mistake."""
    try:
        return await asyncio.to_thread(change, *args)
    except (jobs.JobError, releases.ReleaseError) as error:
        kind = NotFound if "there is no" in str(error) else BadRequest
        raise kind(str(error)) from error


async def _body(request: Request[Any, Any, Any], shape: type[msgspec.Struct]) -> Any:
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"We could not read the JSON body of your request: {error}") from error


@get("/admin/v1/jobs", opt=opt("read"))
async def list_jobs(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The newest jobs."""
    return _json({"data": await asyncio.to_thread(jobs.list_jobs, _store(request))})


@post("/admin/v1/jobs", opt=opt("admin"))
async def create_job(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Queue a re-distillation for the worker."""
    wanted: NewJob = await _body(request, NewJob)
    job = await _change(jobs.create, _store(request), "api", _actor(request), {"note": wanted.note})
    return _json(job, 202)


@get("/admin/v1/jobs/{job_id:str}", opt=opt("read"))
async def show_job(request: Request[Any, Any, Any], job_id: str) -> Response[bytes]:
    """One job with its events."""
    store = _store(request)
    job = await _change(jobs.get, store, job_id)
    return _json({"job": job, "events": await asyncio.to_thread(jobs.events, store, job_id)})


@post("/admin/v1/jobs/{job_id:str}/cancel", opt=opt("admin"))
async def cancel_job(request: Request[Any, Any, Any], job_id: str) -> Response[bytes]:
    """Stop a job."""
    return _json(await _change(jobs.cancel, _store(request), job_id, _actor(request)))


@get("/admin/v1/releases", opt=opt("read"))
async def list_releases(request: Request[Any, Any, Any]) -> Response[bytes]:
    """All releases."""
    return _json({"data": await asyncio.to_thread(releases.list_releases, _store(request))})


@post("/admin/v1/releases/{release_id:str}/promote", opt=opt("admin"))
async def promote_release(request: Request[Any, Any, Any], release_id: str) -> Response[bytes]:
    """Make a release live. It takes traffic as soon as a student of it is ready."""
    store = _store(request)
    await _change(releases.promote, store, release_id, _actor(request))
    return _json(await _change(releases.get, store, release_id))


@post("/admin/v1/releases/rollback", opt=opt("admin"))
async def rollback_release(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Take the live release back for the one before it."""
    taken_back, live = await _change(releases.rollback, _store(request), _actor(request))
    return _json({"rolled_back": taken_back.id, "live": live})


@get("/admin/v1/requests/{request_id:str}", opt=opt("admin"))
async def show_request(request: Request[Any, Any, Any], request_id: str) -> Response[bytes]:
    """One request: its row, its content where that was kept, and its feedback, newest first."""
    found = await asyncio.to_thread(requests.get, _store(request), request_id)
    if found is None:
        raise NotFound(f"there is no request {request_id!r} in the store (yet)")
    row, content = found
    said = await asyncio.to_thread(feedback.of_request, _store(request), request_id)
    return _json({"request": row, "content": content, "feedback": said})


handlers = [
    *keys_api.handlers, list_jobs, create_job, show_job, cancel_job,
    list_releases, promote_release, rollback_release, show_request,
]  # fmt: skip
