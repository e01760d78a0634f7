"""The handlers of ``/admin/v1/requests``: the list, one request whole, feedback on it, and deleting what it says."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from litestar import Request, Response, delete, get, post

from gateway.admin_requests import actor_of, as_shape, body_of, json_answer, store_of
from gateway.auth import opt
from gateway.errors import BadRequest, NotFound, PermissionDenied
from gateway.feedback_api import Remark, add_feedback
from ledger import audit, explorer, feedback, labels, requests
from ledger.erased import ENDS
from ledger.erasure import Erasure, erase, resolve
from ledger.explorer import Filters, Page, Wanted
from ledger.explorer_query import QueryError, read_filters, read_wanted
from ledger.keys import Key
from ledger.replays import replays_of
from ledger.store import Store
from router.explain import Background, explain
from router.log_report import router_of
from router.policy import Capabilities

__all__ = ("LIMIT", "handlers", "no_request", "read_request")

LIMIT: Final = 100
REPLAYS_SHOWN: Final = 10


@get("/admin/v1/requests", opt=opt("read"))
async def list_requests(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Requests, newest first, by filters, without their content.

    ``next`` is where the next page begins (``before``), null at the end. A page of filters without an index may come
    back short of ``limit``: ``looked`` then says how many requests were looked through, and the next page goes on.
    ``text`` searches the content, which takes the scope admin and is written into the audit.
    """
    query, key = request.query_params, request.scope["state"].get("key")
    try:
        filters, wanted = read_filters(query), read_wanted(query, LIMIT)
    except QueryError as error:
        raise BadRequest(str(error), param=error.field) from error
    if filters.text and key is not None and "admin" not in key.scopes:
        raise PermissionDenied("searching the content takes a key with the scope 'admin'", param="text")
    found = await asyncio.to_thread(_page, store_of(request), filters, wanted, actor_of(request))
    return json_answer({"data": found.rows, "next": str(found.next) if found.next else None, "looked": found.looked})


def _page(store: Store, filters: Filters, wanted: Wanted, actor: str) -> Page:
    found = explorer.page(store, filters, wanted)
    if filters.text:
        explorer.note_search(store, actor, filters, found)
    return found


@get("/admin/v1/requests/{request_id:str}", opt=opt("admin"))
async def show_request(request: Request[Any, Any, Any], request_id: str) -> Response[bytes]:
    """One request: its row, why it took its route, its content where that was kept, its labels and its feedback.

    ``why`` has one sentence each; ``words`` are those that moved the score most. ``beside`` are the rows that were
    asked beside it, ``replays`` the newest of those that a person had asked again; each has a request and a content.
    Where content is shown, that is written into the audit.
    """
    found = await read_request(request, request_id)
    if found is None:
        raise no_request(request_id)
    return json_answer(found)


@post("/admin/v1/requests/{request_id:str}/feedback", opt=opt("admin"), status_code=201)
async def give_feedback(request: Request[Any, Any, Any], request_id: str) -> Response[bytes]:
    """Say of any request, as an admin, whether its answer was right, or what it should have been.

    It is feedback as by ``/v1/feedback``: the newest of a request counts, texts are kept where its content is.
    """
    said = as_shape(await body_of(request), Remark)
    key: Key | None = request.scope["state"].get("key")
    kept = await add_feedback(store_of(request), said, request_id, key)
    given = [name for name in ("score", "label", "correction", "comment") if getattr(kept, name) is not None]
    await asyncio.to_thread(_note, store_of(request), actor_of(request), "feedback.add", request_id, {"kept": given})
    return json_answer(kept, 201)


@delete("/admin/v1/requests/{request_id:str}/content", opt=opt("admin"), status_code=200)
async def delete_content(request: Request[Any, Any, Any], request_id: str) -> Response[bytes]:
    """Delete what one request says. Its row, scores and sums stay.

    That is its content, that of rows beside it and of its replays, the texts of its feedback, and kept responses that
    hold it. Datasets that hold a copy are flagged and listed, with the releases that learned from them.
    """
    done = await asyncio.to_thread(_delete, store_of(request), request_id, actor_of(request))
    if done is None:
        raise no_request(request_id)
    return json_answer(done)


def no_request(request_id: str) -> NotFound:
    """The error where there is none."""
    return NotFound(f"there is no request {request_id!r} in the store (yet)")


async def read_request(request: Request[Any, Any, Any], request_id: str) -> dict[str, Any] | None:
    """What `show_request` answers, for the pages too; None where there is no such request."""
    state = request.app.state
    reader = _Reader(store_of(request), state.relay.capabilities, actor_of(request), state.release_cache)
    return await asyncio.to_thread(reader.read, request_id)


@dataclass(frozen=True, slots=True)
class _Reader:
    store: Store
    capabilities: Capabilities
    actor: str
    cache: Path

    def read(self, request_id: str) -> dict[str, Any] | None:
        found = requests.get(self.store, request_id)
        if found is None:
            return None
        row, content = found
        beside = self._all([f"{request_id}-{end}" for end in ENDS])
        replays = self._all(replays_of(self.store, [request_id])[:REPLAYS_SHOWN])
        if content is not None or any(each["content"] for each in (*beside, *replays)):
            _note(self.store, self.actor, "content.read", request_id, {})
        router = router_of(self.store, row["release_id"], self.cache)
        explanation = explain(row, content, Background(router, self.capabilities))
        return {
            "request": row,
            "content": content,
            "why": explanation.why,
            "words": explanation.words,
            "labels": labels.of_request(self.store, request_id),
            "feedback": feedback.of_request(self.store, request_id),
            "beside": beside,
            "replays": replays,
        }

    def _all(self, ids: list[str]) -> list[dict[str, Any]]:
        found = (requests.get(self.store, each) for each in ids)
        return [{"request": each[0], "content": each[1]} for each in found if each is not None]


def _note(store: Store, actor: str, action: str, request_id: str, detail: dict[str, Any]) -> None:
    with store.write() as connection:
        audit.record(connection, actor, action, f"request:{request_id}", detail)


def _delete(store: Store, request_id: str, actor: str) -> Erasure | None:
    if requests.get(store, request_id) is None:
        return None
    return erase(store, resolve(store, "request", request_id), actor)


handlers = [list_requests, show_request, give_feedback, delete_content]
