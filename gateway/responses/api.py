"""The handlers of ``/v1/responses``: create, look up, list the input of, delete."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.types import ASGIApp

from gateway.auth import opt
from gateway.call import Call, Caller, decode_body
from gateway.errors import BadRequest, NotFound
from gateway.fields import unsupported
from gateway.openai_api import answer_call
from gateway.replies import PlainReply, StreamReply
from gateway.responses.events import ResponseTranslation
from gateway.responses.items import Item
from gateway.responses.keep import ResponseKeeper
from gateway.responses.reply import from_chat
from gateway.responses.request import Asking, read_response
from gateway.translated import translated
from gateway.wire import decode_object, encode
from ledger.keys import Key
from ledger.responses import StoredBody, StoredResponse, encode_body
from ledger.store import now_ms

__all__ = ("handlers",)

MAX_LISTED = 100
JSON = "application/json"


@dataclass(slots=True)
class _Creation:
    """One request, from its body to its answer in the shape of a response."""

    keeper: ResponseKeeper
    key: Key | None
    asking: Asking | None = None

    async def read(self, raw: bytes, headers: Mapping[str, str], caller: Caller) -> Call:
        """Find the conversation that goes on, and make the chat that is asked."""
        body = decode_body(raw)
        call, self.asking = read_response(body, await self._earlier(body), headers, caller)
        return call

    async def _earlier(self, body: Mapping[str, Any]) -> Sequence[Item]:
        previous = body.get("previous_response_id")
        if not isinstance(previous, str):
            return ()
        found = await self.keeper.get(previous)
        if found is None or not _may_see(self.key, found):
            raise BadRequest(
                f"Previous response with id '{previous[:100]}' not found.",
                code="previous_response_not_found",
                param="previous_response_id",
            )
        stored = found.read()
        return [*stored.items, *decode_object(bytes(stored.response))["output"]]

    async def present(self, _call: Call, reply: PlainReply | StreamReply) -> PlainReply | StreamReply:
        """The chat's answer as a response; an upstream's refusal as it is."""
        asking = self.asking
        if asking is None:
            raise RuntimeError("an answer without a request")
        if isinstance(reply, StreamReply):
            events = translated(ResponseTranslation(asking, self._keep), reply.events)
            # begun, so that closing it closes what it reads from, though nobody may ever read from it
            await anext(events)
            return StreamReply(reply.headers, events)
        if reply.status >= 400:
            return reply
        body = self._keep(from_chat(asking, decode_object(reply.body)))
        return PlainReply(reply.status, reply.headers, body)

    def _keep(self, response: dict[str, Any]) -> bytes:
        """The response as JSON, kept where the caller and the settings allow it."""
        encoded, asking = encode(response), self.asking
        if asking is not None and asking.kept:
            self.keeper.keep(
                StoredResponse(
                    id=asking.id,
                    created_at=now_ms(),
                    key_id=self.key.id if self.key else None,
                    request_id=asking.request_id,
                    previous_id=asking.repeated["previous_response_id"],
                    body=encode_body(StoredBody(msgspec.Raw(encoded), list(asking.items))),
                )
            )
        return encoded


@post("/v1/responses", opt=opt("inference", short_way=True), status_code=200)
async def create_response(request: Request[Any, Any, Any]) -> ASGIApp:
    """OpenAI's responses, plain or streamed, asked of the upstreams as a chat."""
    creation = _Creation(request.app.state.responses, request.scope["state"].get("key"))
    return await answer_call(request, creation.read, creation.present)


@get("/v1/responses/{response_id:str}", opt=opt("inference"))
async def response(request: Request[Any, Any, Any], response_id: str) -> Response[bytes]:
    """A response of this key, as it was answered."""
    if request.query_params.get("stream") == "true":
        raise unsupported("stream", "a stream of a response that is over")
    found = await _find(request, response_id)
    return Response(bytes(found.read().response), media_type=JSON)


@delete("/v1/responses/{response_id:str}", opt=opt("inference", short_way=True), status_code=200)
async def delete_response(request: Request[Any, Any, Any], response_id: str) -> Response[bytes]:
    """Delete a response of this key. Its request stays in the ledger, with its content."""
    await _find(request, response_id)
    await request.app.state.responses.delete(response_id)
    return Response(encode({"id": response_id, "object": "response", "deleted": True}), media_type=JSON)


@get("/v1/responses/{response_id:str}/input_items", opt=opt("inference"))
async def response_input_items(request: Request[Any, Any, Any], response_id: str) -> Response[bytes]:
    """What a response of this key was made from, newest first, in pages."""
    limit, after, order = _page(request.query_params)
    found = await _find(request, response_id)
    items = found.read().items
    if order == "desc":
        items = items[::-1]
    ids = [item["id"] for item in items]
    begin = ids.index(after) + 1 if after in ids else 0
    page = items[begin : begin + limit]
    listed = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": begin + limit < len(items),
    }
    return Response(encode(listed), media_type=JSON)


handlers = (create_response, response, delete_response, response_input_items)


def _page(query: Mapping[str, Any]) -> tuple[int, str | None, str]:
    try:
        limit = int(query.get("limit", 20))
    except ValueError:
        limit = 0
    if not 1 <= limit <= MAX_LISTED:
        raise BadRequest(f"'limit' must be an integer between 1 and {MAX_LISTED}", param="limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequest("'order' must be asc or desc", param="order")
    return limit, query.get("after"), order


async def _find(request: Request[Any, Any, Any], response_id: str) -> StoredResponse:
    """Raises `NotFound` for another key's response as for one that does not exist, and `Unavailable`."""
    found = await request.app.state.responses.get(response_id)
    if found is None or not _may_see(request.scope["state"].get("key"), found):
        raise NotFound(f"Response with id '{response_id[:100]}' not found.", param="response_id")
    return found


def _may_see(key: Key | None, response: StoredResponse) -> bool:
    # without keys everyone has all scopes
    return key is None or "admin" in key.scopes or key.id == response.key_id
