"""The response object: from a chat's whole answer, and the pieces that a stream of events is made of too."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.responses.items import Item
from gateway.responses.request import Asking
from gateway.wire import count, mapping, objects, string

__all__ = (
    "CUT_SHORT",
    "PART_TEXTS",
    "call_item",
    "failed",
    "finished",
    "from_chat",
    "message_item",
    "part",
    "response",
)

CUT_SHORT: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is incomplete, by a chat's reason to finish."""
PART_TEXTS: Final = {"output_text": "text", "refusal": "refusal"}
"""Kinds of a message's parts, each with the field of its text."""


def from_chat(asking: Asking, chat: Mapping[str, Any]) -> dict[str, Any]:
    """The response that a ``chat.completion`` stands for. Odd shapes count as absent."""
    choice = next(objects(chat.get("choices")), {})
    message = mapping(choice.get("message"))
    cut = CUT_SHORT.get(str(choice.get("finish_reason")))
    status = "incomplete" if cut else "completed"
    parts: list[dict[str, Any]] = []
    if message.get("content"):
        tokens = list(objects(mapping(choice.get("logprobs")).get("content")))
        parts.append(part("output_text", message["content"], tokens))
    if message.get("refusal"):
        parts.append(part("refusal", message["refusal"]))
    calls = list(objects(message.get("tool_calls")))
    output: list[Item] = []
    if parts or not calls:
        # what was cut short is what came last
        output.append(message_item(asking, 0, "completed" if calls else status, parts or [part("output_text", "")]))
    for call in calls:
        output.append(call_item(asking, len(output), call) | {"status": status})
    return finished(asking, chat, output, cut)


def message_item(asking: Asking, n: int, status: str, parts: Sequence[dict[str, Any]]) -> Item:
    """What the model said, the n-th item of the output."""
    return {
        "id": asking.item_id("msg", n),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": list(parts),
    }


def part(kind: str, text: str, tokens: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """A part of a message."""
    made: dict[str, Any] = {"type": kind, PART_TEXTS[kind]: text}
    return made | {"annotations": [], "logprobs": list(tokens)} if kind == "output_text" else made


def call_item(asking: Asking, n: int, call: Mapping[str, Any]) -> Item:
    """A function that the model wants to be called, the n-th item of the output; from a chat's tool call."""
    function, item_id = mapping(call.get("function")), asking.item_id("fc", n)
    return {
        "id": item_id,
        "type": "function_call",
        "status": "in_progress",
        "arguments": string(function.get("arguments")),
        "call_id": string(call.get("id")) or item_id,
        "name": string(function.get("name")),
    }


def response(asking: Asking, status: str, chat: Mapping[str, Any], output: Sequence[Item]) -> dict[str, Any]:
    """The object at any time of its life. ``chat`` says which model answers, and under which tier."""
    return {
        "id": asking.id,
        "object": "response",
        "created_at": asking.created_at,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": string(chat.get("model")) or asking.model,
        "output": list(output),
        "usage": _usage(chat.get("usage")),
        **asking.repeated,
        **({"service_tier": chat["service_tier"]} if chat.get("service_tier") else {}),
    }


def finished(asking: Asking, chat: Mapping[str, Any], output: Sequence[Item], cut: str | None) -> dict[str, Any]:
    """The object at its end; ``cut`` says why it ended early, if it did."""
    if cut:
        return response(asking, "incomplete", chat, output) | {"incomplete_details": {"reason": cut}}
    return response(asking, "completed", chat, output) | {"completed_at": int(time.time())}


def failed(asking: Asking, chat: Mapping[str, Any], output: Sequence[Item], message: str) -> dict[str, Any]:
    """The object where the upstream broke off."""
    return response(asking, "failed", chat, output) | {"error": {"code": "server_error", "message": message}}


def _usage(usage: Any) -> dict[str, Any] | None:
    counts = mapping(usage)
    if not counts:
        return None
    prompt, answer = count(counts.get("prompt_tokens")), count(counts.get("completion_tokens"))
    read, written = mapping(counts.get("prompt_tokens_details")), mapping(counts.get("completion_tokens_details"))
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0} | _given(read),
        "output_tokens": answer,
        "output_tokens_details": {"reasoning_tokens": 0} | _given(written),
        "total_tokens": count(counts.get("total_tokens")) or prompt + answer,
    }


def _given(details: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in details.items() if value is not None}
