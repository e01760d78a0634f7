"""The handlers of ``/v1``."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.types import ASGIApp

from gateway.asgi import ClientGone, PlainAnswer, StreamedAnswer, unless_client_leaves
from gateway.auth import opt
from gateway.call import MODELS, read_call
from gateway.errors import NotFound
from gateway.relay import PlainReply, Relay
from ledger.keys import Key

__all__ = ("chat_completions", "model", "models")

CLIENT_GONE = 499


@post("/v1/chat/completions", opt=opt("inference"), status_code=200)
async def chat_completions(request: Request[Any, Any, Any]) -> ASGIApp:
    """OpenAI's chat completions, plain or streamed."""
    state = request.app.state
    relay: Relay = state.relay
    key: Key | None = request.scope["state"].get("key")
    limit_headers = state.request_limit.take(key.id if key else "")
    raw = await request.body()
    call = read_call(raw, request.headers, state.aliases, key.id if key else None, state.log_content)
    request.scope["state"]["request_id"] = call.id
    answering = relay.open_stream(call) if call.stream else relay.answer(call)
    with state.metrics.in_flight.track_inprogress():
        try:
            reply = await unless_client_leaves(answering, request.receive)
        except ClientGone:
            relay.abandoned(call)
            return PlainAnswer(CLIENT_GONE, {}, b"")
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
