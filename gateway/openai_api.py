"""The handlers of ``/v1``."""

import asyncio
from typing import Any

from litestar import Request, Response, get, post
from litestar.types import ASGIApp

from gateway.asgi import ClientGone, PlainAnswer, StreamedAnswer, unless_client_leaves
from gateway.auth import opt
from gateway.call import MODELS, Caller, read_call
from gateway.errors import NotFound, Unavailable, request_id
from gateway.relay import CLIENT_GONE, PlainReply, Relay
from ledger.keys import Key

__all__ = ("chat_completions", "model", "models")


@post("/v1/chat/completions", opt=opt("inference"), status_code=200)
async def chat_completions(request: Request[Any, Any, Any]) -> ASGIApp:
    """OpenAI's chat completions, plain or streamed."""
    state, of_request = request.app.state, request.scope["state"]
    relay: Relay = state.relay
    key: Key | None = of_request.get("key")
    of_request["limit_headers"] = limit_headers = state.request_limit.take(key.id if key else "")
    caller = Caller(request_id(request), key.id if key else None, state.aliases, state.log_content)
    call = read_call(await request.body(), request.headers, caller)
    answering = relay.open_stream(call) if call.stream else relay.answer(call)
    with state.metrics.in_flight.track_inprogress():
        try:
            reply = await unless_client_leaves(answering, request.receive)
        except ClientGone:
            relay.abandoned(call, CLIENT_GONE, "client_closed")
            return PlainAnswer(CLIENT_GONE, {}, b"")
        except asyncio.CancelledError:
            # the server's time to drain is over; the client is told so and may ask another gateway
            relay.abandoned(call, 503, "shutting_down")
            raise Unavailable("The gateway is shutting down.", code="shutting_down") from None
    headers = limit_headers | reply.headers
    if isinstance(reply, PlainReply):
        return PlainAnswer(reply.status, headers, reply.body)
    return StreamedAnswer(headers, reply.events)


@get("/v1/models", opt=opt("inference"))
async def models(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """The names a client may send as ``model``."""
    names = [*MODELS, *request.app.state.aliases]
    return Response({"object": "list", "data": [_model(name) for name in names]}, media_type="application/json")


@get("/v1/models/{name:str}", opt=opt("inference"))
async def model(request: Request[Any, Any, Any], name: str) -> Response[dict[str, Any]]:
    """One of them."""
    if name not in (*MODELS, *request.app.state.aliases):
        raise NotFound(f"The model '{name}' does not exist", code="model_not_found", param="model")
    return Response(_model(name), media_type="application/json")


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "stillroom"}
