"""The message object: from a chat's whole answer, and the pieces that a stream of events is made of too."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from gateway.messages.request import Asking
from gateway.wire import NotJson, count, decode_object, mapping, objects, string

__all__ = ("Ending", "ending", "from_chat", "message", "thought_of", "usage", "whole_arguments")

REASONS: Final = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""Why an answer is over, by a chat's reason to finish; all else is the end of the model's turn."""
THOUGHTS: Final = ("reasoning", "reasoning_content")
"""Where servers of chats put what the model thought."""

Ending: TypeAlias = dict[str, str | None]


def from_chat(asking: Asking, chat: Mapping[str, Any]) -> dict[str, Any]:
    """The message that a ``chat.completion`` stands for. Odd shapes count as absent."""
    choice = next(objects(chat.get("choices")), {})
    said = mapping(choice.get("message"))
    content: list[dict[str, Any]] = []
    thought, refusal = thought_of(said), string(said.get("refusal"))
    if thought and asking.shows_thinking:
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    text = string(said.get("content")) + refusal
    if text:
        content.append({"type": "text", "text": text})
    calls = list(objects(said.get("tool_calls")))
    content += [_tool_use(asking, n, call) for n, call in enumerate(calls)]
    return message(asking, chat, content, ending(asking, choice, bool(calls), bool(refusal)))


def message(
    asking: Asking, chat: Mapping[str, Any], content: Sequence[dict[str, Any]], end: Ending | None
) -> dict[str, Any]:
    """The object at any time of its life. ``chat`` says which model answers, and what was used."""
    return {
        "id": asking.id,
        "type": "message",
        "role": "assistant",
        "model": string(chat.get("model")) or asking.model,
        "content": list(content),
        **(end or {"stop_reason": None, "stop_sequence": None}),
        "usage": usage(chat.get("usage")),
    }


def ending(asking: Asking, choice: Mapping[str, Any], has_calls: bool, refused: bool) -> Ending:
    """Why the answer is over. vLLM says which stop sequence it met; of others it is not known."""
    met = choice.get("stop_reason")
    if isinstance(met, str) and met in asking.stop_sequences:
        return {"stop_reason": "stop_sequence", "stop_sequence": met}
    reason = REASONS.get(string(choice.get("finish_reason")), "end_turn")
    if reason == "end_turn":
        # a call that was asked for by name ends with "stop" at some servers
        reason = "refusal" if refused else "tool_use" if has_calls else reason
    return {"stop_reason": reason, "stop_sequence": None}


def thought_of(said: Mapping[str, Any]) -> str:
    """What the model thought, of a chat's message or of a piece of one."""
    return next((said[name] for name in THOUGHTS if isinstance(said.get(name), str)), "")


def whole_arguments(written: str) -> dict[str, Any] | None:
    """A call's arguments as an object; None where they are none."""
    try:
        return decode_object(written.encode("utf-8", "surrogatepass"))
    except NotJson:
        return None


def usage(counted: Any) -> dict[str, Any]:
    """A chat's counts. What was read from a cache, or written to one, is not counted twice."""
    counts = mapping(counted)
    details, written = mapping(counts.get("prompt_tokens_details")), mapping(counts.get("completion_tokens_details"))
    prompt = count(counts.get("prompt_tokens"))
    read = min(count(details.get("cached_tokens")), prompt)
    kept = min(count(details.get("cache_write_tokens")), prompt - read)
    thinking = written.get("reasoning_tokens")
    return {
        "input_tokens": prompt - read - kept,
        "cache_creation_input_tokens": kept,
        "cache_read_input_tokens": read,
        "output_tokens": count(counts.get("completion_tokens")),
        **({} if thinking is None else {"output_tokens_details": {"thinking_tokens": count(thinking)}}),
    }


def _tool_use(asking: Asking, n: int, call: Mapping[str, Any]) -> dict[str, Any]:
    function = mapping(call.get("function"))
    written = string(function.get("arguments"))
    given = whole_arguments(written or "{}")
    return {
        "type": "tool_use",
        "id": string(call.get("id")) or asking.call_id(n),
        "name": string(function.get("name")),
        # as Anthropic's documents name what is no object
        "input": {"INVALID_JSON": written} if given is None else given,
    }
