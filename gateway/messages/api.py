"""The handlers of ``/v1/messages``: create, and count the tokens of what would be asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, post
from litestar.types import ASGIApp

from gateway.admission import Ask, Visit
from gateway.asgi import PlainAnswer
from gateway.auth import opt
from gateway.call import Call, Caller, decode_body
from gateway.exchange import body_of
from gateway.messages.counting import count_tokens
from gateway.messages.errors import shaped_error
from gateway.messages.events import MessageTranslation, broken_off
from gateway.messages.reply import from_chat
from gateway.messages.request import Asking, read_message
from gateway.openai_api import answer_call
from gateway.replies import SHUTTING_DOWN, PlainReply, StreamReply
from gateway.translated import translated
from gateway.visits import attend
from gateway.wire import decode_object, encode

__all__ = ("handlers",)


@dataclass(slots=True)
class _Creation:
    """One request, from its body to its answer in the shape of a message."""

    asking: Asking | None = None

    def read(self, raw: bytes, headers: Mapping[str, str], caller: Caller) -> Call:
        """The chat that is asked."""
        call, self.asking = read_message(decode_body(raw), headers, caller)
        return call

    async def present(self, call: Call, reply: PlainReply | StreamReply) -> PlainReply | StreamReply:
        """The chat's answer as a message, a refusal as Anthropic's error."""
        asking, headers = self.asking, reply.headers | {"request-id": call.id}
        if asking is None:
            raise RuntimeError("an answer without a request")
        if isinstance(reply, StreamReply):
            events = translated(MessageTranslation(asking), reply.events)
            # begun, so that closing it closes what it reads from, though nobody may ever read from it
            await anext(events)
            return StreamReply(headers, events, broken_off(SHUTTING_DOWN["error"], call.id))
        body = decode_object(reply.body)
        shown = from_chat(asking, body) if reply.status < 400 else shaped_error(body["error"], reply.status, call.id)
        return PlainReply(reply.status, headers, encode(shown))


@post("/v1/messages", opt=opt("inference", short_way=True), status_code=200)
async def create_message(request: Request[Any, Any, Any]) -> ASGIApp:
    """Anthropic's messages, plain or streamed, asked of the upstreams as a chat."""
    creation = _Creation()
    return await answer_call(request, creation.read, creation.present)


@post("/v1/messages/count_tokens", opt=opt("inference", short_way=True), status_code=200)
async def count_message_tokens(request: Request[Any, Any, Any]) -> ASGIApp:
    """How many tokens a message's request would be for the student, by its server's own count."""

    async def work(visit: Visit) -> ASGIApp:
        await visit.admit_everywhere(Ask())
        state = request.app.state
        body = decode_body(await body_of(request))
        counted = await count_tokens(state.lasting.client, state.relay, body, visit.id)
        headers = visit.headers | {"x-request-id": visit.id, "request-id": visit.id}
        return PlainAnswer(200, headers, encode({"input_tokens": counted}))

    return await attend(request, work)


handlers: Final = (create_message, count_message_tokens)
