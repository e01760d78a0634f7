"""The handlers of ``/admin/v1/jobs``: making and deciding jobs, and following one as server-sent events."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.types import ASGIApp
from sqlalchemy.exc import SQLAlchemyError

from gateway import job_plans_api
from gateway.admin_requests import actor_of, as_shape, body_of, json_answer, run, store_of
from gateway.asgi import StreamedAnswer
from gateway.auth import opt
from gateway.errors import BadRequest, Mismatch
from gateway.exchange import headers_of
from gateway.paging import limit_of, listed, text_of
from ledger import approvals, jobs
from ledger.job_history import jobs_page
from ledger.job_settings import JobSettings
from ledger.store import Store

__all__ = ("NewReason", "Tail", "handlers")

ONCE: Final = "idempotency-key"
MAX_NAME: Final = 255
LOOK_S: Final = 0.5
KEEP_ALIVE_S: Final = 15.0
KEEP_ALIVE: Final = b": keep-alive\n\n"
RETRY: Final = b"retry: 3000\n\n"
AT_ONCE: Final = 200
MAX_DIGITS: Final = 18

_readers: Final = ThreadPoolExecutor(2, "job-events")
"""All the threads that the followers of jobs may hold, however many they are and however the store is."""


class NewReason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /admin/v1/jobs/{job_id}/reject``."""

    why: str = "rejected by hand"


@get("/admin/v1/jobs", opt=opt("read"))
async def list_jobs(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Jobs, newest first: of one `state`, where it says so."""
    query = request.query_params
    limit, of = limit_of(query), (text_of(query, "after"), text_of(query, "state"))
    return listed(await run(jobs_page, store_of(request), limit + 1, *of), limit)


@post("/admin/v1/jobs", opt=opt("admin"))
async def create_job(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Queue a re-distillation for the worker.

    With an `Idempotency-Key`, the same request again is answered with the job that the first one made, by whichever
    gateway and however late; another body under the same key is refused.
    """
    # as it is kept: a list, and not the tuple that it was read as
    wanted = msgspec.json.decode(msgspec.json.encode(as_shape(await body_of(request), JobSettings)))
    name, actor, store = headers_of(request).get(ONCE), actor_of(request), store_of(request)
    if name is None:
        job = await run(jobs.create, store, "api", actor, wanted)
    elif not 0 < len(name) <= MAX_NAME:
        raise BadRequest(f"Idempotency-Key must have 1 to {MAX_NAME} characters", param=ONCE)
    else:
        job, is_new = await run(jobs.create_once, store, f"api\0{actor}\0{name}", "api", actor, wanted)
        if not is_new and job.settings != wanted:
            raise Mismatch("This Idempotency-Key was used for another job.", param=ONCE)
    answer = json_answer(job, 202)
    answer.headers["location"] = f"/admin/v1/jobs/{job.id}"
    return answer


@get("/admin/v1/jobs/{job_id:str}", opt=opt("read"))
async def show_job(request: Request[Any, Any, Any], job_id: str) -> Response[bytes]:
    """One job with its events."""
    store = store_of(request)
    job = await run(jobs.get, store, job_id)
    return json_answer({"job": job, "events": await asyncio.to_thread(jobs.events, store, job_id)})


@post("/admin/v1/jobs/{job_id:str}/cancel", opt=opt("admin"))
async def cancel_job(request: Request[Any, Any, Any], job_id: str) -> Response[bytes]:
    """Stop a job."""
    return json_answer(await run(jobs.cancel, store_of(request), job_id, actor_of(request)))


@post("/admin/v1/jobs/{job_id:str}/approve", opt=opt("admin"))
async def approve_job(request: Request[Any, Any, Any], job_id: str) -> Response[bytes]:
    """Let the release of a job that awaits approval go live, or be tried first where the settings say so."""
    trial = request.app.state.trial
    return json_answer(await run(approvals.approve, store_of(request), job_id, actor_of(request), trial))


@post("/admin/v1/jobs/{job_id:str}/reject", opt=opt("admin"))
async def reject_job(request: Request[Any, Any, Any], job_id: str) -> Response[bytes]:
    """End a job that awaits approval; its release never goes live."""
    why = as_shape(await body_of(request), NewReason).why
    return json_answer(await run(approvals.reject, store_of(request), job_id, actor_of(request), why))


@get("/admin/v1/jobs/{job_id:str}/events", opt=opt("read"))
async def follow_job(request: Request[Any, Any, Any], job_id: str) -> ASGIApp:
    """A job's events as they come, as `text/event-stream`; it ends with the job's final state.

    Each has the event's id, its kind as `event`, and JSON as `data`. `Last-Event-ID`, or `after`, goes on behind an
    event. When the job has ended and nothing is left to tell, the answer is 204, at which a browser asks no more.
    """
    sent_id = headers_of(request).get("last-event-id", "")
    after = _id("Last-Event-ID", sent_id) if sent_id else _id("after", request.query_params.get("after", "0"))
    store, state = store_of(request), request.app.state
    seen = await run(_look, store, job_id, after)
    if seen.is_over and not seen.events:
        return Response(None, status_code=204).to_asgi_response(None, request)
    look = partial(_look, store, job_id)
    return StreamedAnswer({}, Tail(look, after, lambda: state.draining).frames())


handlers = [
    list_jobs, create_job, show_job, cancel_job, approve_job, reject_job, follow_job, *job_plans_api.handlers,
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look at a job: some of its events, and whether these are the last ones."""

    events: list[dict[str, Any]]
    is_over: bool


def _look(store: Store, job_id: str, after: int) -> _Seen:
    # the state first: it and its event are written as one, so a job that has ended has all its events by then
    job = jobs.get(store, job_id)
    events = jobs.events(store, job_id, after, AT_ONCE)
    return _Seen(events, job.state in jobs.FINAL_STATES and len(events) < AT_ONCE)


def _id(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > MAX_DIGITS:
        raise BadRequest(f"'{name}' must be the id of an event", param=name)
    return int(text)


@dataclass
class Tail:
    """The events behind one, for one follower; nothing is read ahead of what the client takes."""

    look: Callable[[int], _Seen]
    after: int
    is_ending: Callable[[], bool]
    """The gateway is: the client is to go on with another."""
    keep_alive_s: float = KEEP_ALIVE_S

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Events until the last one, comments where there are none for long. A store that is away is waited for."""
        yield RETRY
        said, is_over = time.monotonic(), False
        looking: asyncio.Future[_Seen] | None = None
        while not (is_over or self.is_ending()):
            looking = looking or asyncio.get_running_loop().run_in_executor(_readers, self.look, self.after)
            # not asyncio.wait_for: a look at a store that hangs goes on while the client is told that we are here
            await asyncio.wait([looking], timeout=LOOK_S)
            events: list[dict[str, Any]] = []
            if looking.done():
                events, is_over = _outcome(looking)
                looking = None
            if events:
                self.after = events[-1]["id"]
                said = time.monotonic()
                yield b"".join(_frame(event) for event in events)
            elif time.monotonic() - said >= self.keep_alive_s:
                said = time.monotonic()
                yield KEEP_ALIVE
            if looking is None and not is_over and len(events) < AT_ONCE:
                await asyncio.sleep(LOOK_S)


def _outcome(looking: "asyncio.Future[_Seen]") -> tuple[list[dict[str, Any]], bool]:
    try:
        seen = looking.result()
    except SQLAlchemyError:
        return [], False
    return seen.events, seen.is_over


def _frame(event: dict[str, Any]) -> bytes:
    data = msgspec.json.encode({"at": event["at"], **event["data"]})
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event["id"], event["kind"].encode(), data)
