"""The handlers of ``/v1``."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

from litestar import Request, Response, get, post
from litestar.types import ASGIApp

from gateway.admission import Ask, Visit, may_use
from gateway.asgi import PlainAnswer, StreamedAnswer
from gateway.auth import opt
from gateway.call import MODELS, Call, Caller, Pricing, read_call
from gateway.error_codes import Code
from gateway.errors import ApiError, NotFound, Unavailable
from gateway.exchange import ClientGone, body_of, headers_of, unless_client_leaves
from gateway.replies import CLIENT_GONE, PlainReply, StreamReply
from gateway.visits import ask_of_call, ask_of_other, attend
from ledger.policies import UNBOUND

__all__ = ("Answering", "Presenter", "Reader", "answer_call", "chat_completions", "model", "models")

Reader: TypeAlias = Callable[[bytes, Mapping[str, str], Caller], Call | Awaitable[Call]]
Reply: TypeAlias = PlainReply | StreamReply
Presenter: TypeAlias = Callable[[Call, Reply], Reply | Awaitable[Reply]]


class Answering(Protocol):
    """What a call is handed to: the relay, or what stands in its place."""

    @property
    def pricing(self) -> Pricing:
        """The prices of both routes."""
        ...

    async def answer(self, call: Call) -> PlainReply:
        """A whole answer."""
        ...

    async def open_stream(self, call: Call) -> StreamReply | PlainReply:
        """A stream, or a refusal."""
        ...

    def abandoned(self, call: Call, status: int, code: Code) -> None:
        """The call ended before it was answered."""
        ...


@post("/v1/chat/completions", opt=opt("inference", short_way=True), status_code=200)
async def chat_completions(request: Request[Any, Any, Any]) -> ASGIApp:
    """OpenAI's chat completions, plain or streamed."""
    return await answer_call(request, read_call)


async def answer_call(
    request: Request[Any, Any, Any],
    read: Reader,
    present: Presenter | None = None,
    instead: Answering | None = None,
) -> ASGIApp:
    """What every endpoint that a model answers does: read the call, admit it, relay it while the client stays.

    ``present`` turns the relay's reply into the endpoint's own shape; ``instead`` of the relay another may answer.
    Raises `ApiError`.
    """

    async def work(visit: Visit) -> ASGIApp:
        call = await _admitted(request, visit, read, instead)
        return await _answered(request, visit, call, present, instead or request.app.state.relay)

    return await attend(request, work)


async def _admitted(request: Request[Any, Any, Any], visit: Visit, read: Reader, instead: Answering | None) -> Call:
    state = request.app.state
    policy = visit.key.policy if visit.key else UNBOUND
    caller = Caller(visit.id, visit.key_id or None, state.aliases, state.log_content, policy)
    raw = await body_of(request)
    try:
        begun = read(raw, headers_of(request), caller)
        call = await begun if inspect.isawaitable(begun) else begun
    except ApiError:
        # what cannot be read counts as a request all the same
        await visit.admit_everywhere(Ask())
        raise
    size = len(raw)
    ask = ask_of_call(call, size, state.relay) if instead is None else ask_of_other(call, size, instead.pricing)
    call.target, call.aim = await visit.admit_everywhere(ask)
    if state.tracing is not None:
        call.trace = state.tracing.begin(call)
    return call


async def _answered(
    request: Request[Any, Any, Any], visit: Visit, call: Call, present: Presenter | None, relay: Answering
) -> ASGIApp:
    answering = relay.open_stream(call) if call.stream else relay.answer(call)
    try:
        reply = await unless_client_leaves(answering, request.scope)
    except ClientGone:
        relay.abandoned(call, CLIENT_GONE, "client_closed")
        return PlainAnswer(CLIENT_GONE, {}, b"")
    except asyncio.CancelledError:
        # the server's time to drain is over; the client is told so and may ask another gateway
        relay.abandoned(call, 503, "shutting_down")
        raise Unavailable("The gateway is shutting down.", code="shutting_down") from None
    if present is not None:
        presented = present(call, reply)
        reply = await presented if inspect.isawaitable(presented) else presented
    headers = visit.headers | reply.headers
    if isinstance(reply, PlainReply):
        return PlainAnswer(reply.status, headers, reply.body)
    return StreamedAnswer(headers, reply.events, reply.farewell)


def _names(request: Request[Any, Any, Any]) -> list[str]:
    """The names that the caller may send as ``model``."""
    state, key = request.app.state, request.scope["state"].get("key")
    policy = key.policy if key else UNBOUND
    targets = {name: name for name in MODELS} | state.aliases
    if state.embeddings is not None:
        targets |= dict.fromkeys(sorted(state.embeddings.models), "teacher")
    return [name for name, target in targets.items() if may_use(policy, name, target)]


@get("/v1/models", opt=opt("inference"))
async def models(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """The names a client may send as ``model``."""
    return Response(
        {"object": "list", "data": [_model(name) for name in _names(request)]}, media_type="application/json"
    )


@get("/v1/models/{name:str}", opt=opt("inference"))
async def model(request: Request[Any, Any, Any], name: str) -> Response[dict[str, Any]]:
    """One of them."""
    if name not in _names(request):
        raise NotFound(f"The model '{name}' does not exist", code="model_not_found", param="model")
    return Response(_model(name), media_type="application/json")


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "stillroom"}
