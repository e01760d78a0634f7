"""``/admin/v1/jobs/preview`` and ``/admin/v1/jobs/triggers``: what a job would find, what starts one by itself."""

import asyncio
from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import MultiDict

from gateway.admin_requests import json_answer, store_of
from gateway.auth import opt
from gateway.errors import BadRequest
from ledger.dataset_preview import preview
from ledger.job_settings import JobSettings
from ledger.store import now_ms

__all__ = ("handlers",)

LISTS: Final = ("tags", "keys", "routes", "reasons", "finish_reasons")


@get("/admin/v1/jobs/preview", opt=opt("read"))
async def preview_job(request: Request[Any, Any, Any]) -> Response[bytes]:
    """What a job would find in the ledger, how long it would take and what it would cost, by the jobs before it.

    The query takes what `POST /admin/v1/jobs` takes, lists with commas. Content is not read and at most 50,000 of the
    newest answers of the teacher are counted, so that it is bounded on a ledger of any size.
    """
    asked = _asked(request.query_params)
    try:
        found = await asyncio.to_thread(preview, store_of(request), request.app.state.distilling, asked, now_ms())
    except ValueError as error:
        raise BadRequest(str(error)) from error
    return json_answer(found)


@get("/admin/v1/jobs/triggers", opt=opt("read"))
async def job_triggers(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The triggers of jobs as they are set, how near each is to starting one, and what holds them back."""
    return json_answer(await asyncio.to_thread(request.app.state.distilling.schedule, store_of(request), now_ms()))


def _asked(query: MultiDict[Any]) -> JobSettings:
    given: dict[str, Any] = {name: value for name, value in query.items() if value != ""}
    for name in LISTS:
        if name in given:
            given[name] = [part.strip() for part in given[name].split(",")]
    try:
        return msgspec.convert(given, JobSettings, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"We could not read the query of your request: {error}") from error


handlers = [preview_job, job_triggers]
