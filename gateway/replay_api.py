"""``POST /admin/v1/requests/{id}/replay``: ask a logged request again of a route, to see what it answers now."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from litestar import Request, post
from litestar.types import ASGIApp
from sqlalchemy.exc import SQLAlchemyError

from gateway.admin_requests import actor_of, as_shape, body_of, store_of
from gateway.admission import Visit
from gateway.asgi import PlainAnswer
from gateway.auth import opt
from gateway.call import CHAT, MAX_TAGS, Call, Caller, begin_call
from gateway.completions_api import COMPLETIONS
from gateway.errors import BadRequest, QuotaExceeded, Unavailable
from gateway.exchange import ClientGone, headers_of, unless_client_leaves
from gateway.replies import CLIENT_GONE, PlainReply
from gateway.requests_api import no_request
from gateway.responses.request import RESPONSES
from gateway.visits import ask_of_call, attend
from gateway.wire import encode
from ledger import audit, requests
from ledger.policies import UNBOUND
from ledger.records import Content
from ledger.replays import REPLAY, tag_of
from ledger.store import Store

__all__ = ("NewReplay", "handlers")

ENDPOINTS: Final = {endpoint.name: endpoint for endpoint in (CHAT, COMPLETIONS, RESPONSES)}
TRACE_CONTEXT: Final = ("traceparent", "tracestate")
LOOKS: Final = 40
LOOKED_EVERY_S: Final = 0.05
"""How often the record is looked for in the store before the answer goes out; whoever asked will look there too."""


class NewReplay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /admin/v1/requests/{id}/replay``."""

    route: Literal["student", "teacher"]


@dataclass(frozen=True, slots=True)
class _Logged:
    row: dict[str, Any]
    content: Content


@post("/admin/v1/requests/{request_id:str}/replay", opt=opt("admin"), status_code=200)
async def replay_request(request: Request[Any, Any, Any], request_id: str) -> ASGIApp:
    """Ask the logged messages and parameters again of one route, and answer when the whole answer is there.

    The replay is a request of its own: billed to the key that asks for it, under that key's limits, with the reason
    ``replay`` and the tag ``replay-of:ID``. It is never trained on and no baseline counts it.
    """

    async def work(visit: Visit) -> ASGIApp:
        wanted = as_shape(await body_of(request), NewReplay)
        store = store_of(request)
        logged = await asyncio.to_thread(_logged, store, request_id)
        call = await _call(request, visit, wanted.route, logged)
        await asyncio.to_thread(_note, store, actor_of(request), request_id, call)
        reply = await _asked(request, call)
        await _until_stored(store, call.id)
        headers = visit.headers | reply.headers
        if reply.status >= 400:
            return PlainAnswer(reply.status, headers, reply.body)
        answer = {"id": call.id, "of": request_id, "route": call.decision.route, "answer": msgspec.Raw(reply.body)}
        return PlainAnswer(200, call.headers(), encode(answer))

    return await attend(request, work)


def _logged(store: Store, request_id: str) -> _Logged:
    """Raises `NotFound`, and `BadRequest` for what cannot be asked again."""
    found = requests.get(store, request_id)
    if found is None:
        raise no_request(request_id)
    row, content = found
    if row["endpoint"] not in ENDPOINTS:
        raise BadRequest(f"a request of the endpoint {row['endpoint']} cannot be replayed")
    if content is None or not content.messages:
        message = "the content of this request is not kept, so it cannot be asked again"
        raise BadRequest(message, code="content_not_kept")
    return _Logged(row, content)


async def _call(request: Request[Any, Any, Any], visit: Visit, route: str, logged: _Logged) -> Call:
    """The request again, admitted. Raises as a client's own would, and `QuotaExceeded`."""
    state, content = request.app.state, logged.content
    endpoint = ENDPOINTS[logged.row["endpoint"]]
    asked: dict[str, Any] = (
        {"messages": content.messages} if endpoint.chat else {"prompt": content.messages[0].get("content")}
    )
    policy = visit.key.policy if visit.key else UNBOUND
    caller = Caller(visit.id, visit.key_id or None, {}, state.log_content, policy)
    headers = headers_of(request)
    context = {name: headers[name] for name in TRACE_CONTEXT if name in headers}
    body = content.parameters | asked | {"model": route}
    call = begin_call(endpoint, body, content.messages, context, caller)
    call.trainable = False
    call.tags = [tag_of(logged.row["id"]), *call.tags][:MAX_TAGS]
    call.target, _ = await visit.admit_everywhere(ask_of_call(call, len(encode(call.body)), state.relay))
    if call.target != route:
        raise QuotaExceeded("The budget of this key is spent, so that only the student may answer it.")
    call.aim = REPLAY
    if state.tracing is not None:
        call.trace = state.tracing.begin(call)
    return call


def _note(store: Store, actor: str, request_id: str, call: Call) -> None:
    with store.write() as connection:
        detail = {"route": call.target, "replay": call.id}
        audit.record(connection, actor, "request.replay", f"request:{request_id}", detail)


async def _asked(request: Request[Any, Any, Any], call: Call) -> PlainReply:
    """Raises `ApiError`."""
    relay = request.app.state.relay
    try:
        return await unless_client_leaves(relay.answer(call), request.scope)
    except ClientGone:
        relay.abandoned(call, CLIENT_GONE, "client_closed")
        raise
    except asyncio.CancelledError:
        relay.abandoned(call, 503, "shutting_down")
        raise Unavailable("The gateway is shutting down.", code="shutting_down") from None


async def _until_stored(store: Store, request_id: str) -> None:
    # a store that is away has it later
    with contextlib.suppress(SQLAlchemyError):
        for _ in range(LOOKS):
            if await asyncio.to_thread(requests.get, store, request_id) is not None:
                return
            await asyncio.sleep(LOOKED_EVERY_S)


handlers = [replay_request]
