"""The tokens of a request before it is asked, counted by the student's server (vLLM's ``/tokenize``)."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import httpx

from gateway.errors import BadRequest, NotFound, Unavailable, UpstreamError
from gateway.messages.request import chat_body
from gateway.relay import Relay
from gateway.upstream import Question, post
from gateway.wire import NotJson, decode_object, encode, mapping, string

__all__ = ("count_tokens",)

PATH: Final = "/tokenize"
"""Beside ``/v1``, not below it."""
LONGEST_S: Final = 30.0


async def count_tokens(client: httpx.AsyncClient, relay: Relay, body: Mapping[str, Any], request_id: str) -> int:
    """The tokens of the prompt, tools and template included. Raises `ApiError` where nobody can count them."""
    chat = chat_body(body)
    release = relay.live.snapshot.release
    if release is None or not release.student_urls:
        raise NotFound("Tokens are counted by the student's server, and no student is live and ready.")
    relay.student.serve_at(release.student_urls, release.id, release.student_model)
    student = relay.student.members[0].upstream
    server = replace(student, base_url=student.base_url.removesuffix("/v1"))
    asked = {"model": student.model} | {name: chat[name] for name in ("messages", "tools") if name in chat}
    deadline = asyncio.get_running_loop().time() + LONGEST_S
    try:
        reply = await post(client, server, Question(PATH, encode(asked), {"x-request-id": request_id}, deadline))
        answer = decode_object(reply.body)
    except NotJson:
        answer = {}
    except UpstreamError as error:
        raise Unavailable(f"The tokens cannot be counted now: {error}.") from error
    else:
        if reply.status == BadRequest.status:
            raise BadRequest(string(mapping(answer.get("error")).get("message")) or "The student cannot read this.")
    counted = answer.get("count")
    if not isinstance(counted, int):
        raise NotFound("The student's server cannot count tokens.")
    return counted
