"""Answers of a teacher that calls tools, as scripts for the scripted upstream: whole, and in a stream's fragments."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tests.gateway_fixtures import SURE, World
from tests.scripted_upstream import Script, event, usage

LOCATE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "locate",
        "description": "Where a parcel is.",
        "parameters": {
            "type": "object",
            "properties": {"parcel": {"type": "string"}},
            "required": ["parcel"],
            "additionalProperties": False,
        },
    },
}
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "frontier"}


def saying(world: World, text: str) -> None:
    """Whoever is asked now says this."""
    world.student.reset(Script(text=text, logprob=SURE))
    world.teacher.reset(Script(text=text))


def asked(world: World) -> dict[str, Any]:
    """The one body that reached an upstream."""
    (seen,) = world.student.seen + world.teacher.seen
    return seen.body


def _calls(parcels: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": "locate", "arguments": json.dumps({"parcel": parcel})},
        }
        for number, parcel in enumerate(parcels)
    ]


def calling(*parcels: str) -> Script:
    """A whole answer that calls `LOCATE` for each of these."""
    message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": _calls(parcels)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}
    body = HEAD | {"object": "chat.completion", "choices": [choice], "usage": usage(7)}
    return Script(body=json.dumps(body).encode())


def streaming_calls(*parcels: str) -> Script:
    """The same as a stream: each call's arguments come in pieces."""
    return Script(events=tuple(_events(parcels)))


def _events(parcels: Sequence[str]) -> Iterator[bytes]:
    yield _chunk({"role": "assistant", "content": None})
    for index, call in enumerate(_calls(parcels)):
        arguments = call["function"]["arguments"]
        begun = call | {"index": index, "function": {"name": "locate", "arguments": ""}}
        yield _chunk({"tool_calls": [begun]})
        for start in range(0, len(arguments), 5):
            piece = {"index": index, "function": {"arguments": arguments[start : start + 5]}}
            yield _chunk({"tool_calls": [piece]})
    yield _chunk({}, "tool_calls")
    yield event(HEAD | {"object": "chat.completion.chunk", "choices": [], "usage": usage(7)})
    yield event(b"[DONE]")


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event(HEAD | {"object": "chat.completion.chunk", "choices": [choice], "usage": None})
