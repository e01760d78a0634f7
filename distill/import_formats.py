"""The shapes in which others export what was asked and answered: one line of a file as one exchange.

``openai-chat`` is OpenAI's file of fine-tuning examples; ``stored-completions`` its stored chat completions, each
with the messages that were sent, and any log of ``{"request": ..., "response": ...}``; ``batch`` the Batch API's
output, each line with the body that was its input.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from ledger.prices import Tokens

__all__ = ("FORMATS", "Exchange", "Unreadable", "format_of", "is_batch_input", "read_exchange")

NOT_PARAMETERS: Final = frozenset({"messages", "model", "store", "stream", "stream_options", "weight"})
NOT_ASKED: Final = (
    NOT_PARAMETERS
    | frozenset(
        ("choices", "created", "id", "input", "input_messages", "input_user", "object", "request_id", "service_tier")
    )
    | frozenset(("system_fingerprint", "usage"))
)
"""What of a stored completion is not of its request."""
SENT: Final = ("messages", "input_messages", "input")
"""Where the messages are, that a stored completion answers."""
OF_A_LISTING: Final = frozenset({"id", "content_parts", "weight"})
"""What of a message the model was not shown."""
SECONDS: Final = range(1_000_000_000, 100_000_000_000)
MAX_TOKENS: Final = 2**53
NO_TOKENS: Final = Tokens()

Line = Mapping[str, Any]


class Unreadable(ValueError):
    """The line is not an exchange; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request with its answer. ``created_at`` is ms since the epoch, None where the record does not say."""

    messages: list[dict[str, Any]]
    parameters: dict[str, Any]
    answer: str
    tool_calls: list[dict[str, Any]] | None = None
    finish_reason: str
    logprobs: list[Any] | None = None
    model: str | None = None
    created_at: int | None = None
    tokens: Tokens = NO_TOKENS
    own_id: str | None = None
    trainable: bool = True
    """False where its maker said not to learn from it (``"weight": 0``, ``"store": false``)."""


def format_of(line: Line) -> str:
    """The format that the line is in. Raises `Unreadable`."""
    if "custom_id" in line:
        return "batch"
    if "choices" in line or "completion" in line or "response" in line:
        return "stored-completions"
    if "messages" in line:
        return "openai-chat"
    raise Unreadable(f"no format has the keys {', '.join(sorted(line)[:8]) or '(none)'}")


def is_batch_input(line: Line) -> bool:
    """Whether it is a line of what was sent to the Batch API."""
    return "custom_id" in line and "body" in line and "response" not in line


def read_exchange(line: Line, chosen: str, sent: Callable[[str], Line]) -> Exchange:
    """The line as an exchange, in the format ``chosen``; ``sent`` gives a batch's input by its ``custom_id``.

    Raises `Unreadable`, as does ``sent``.
    """
    if chosen == "batch":
        return _batch(line, sent)
    return FORMATS[chosen](line)


def _fine_tuning(line: Line) -> Exchange:
    messages = _messages(line.get("messages"))
    last = messages.pop() if messages else {}
    if last.get("role") != "assistant":
        raise Unreadable("the last message is not the assistant's")
    weights = (line.get("weight"), line["messages"][-1].get("weight"))
    answer, calls = _answer(last)
    return Exchange(
        messages=_some(messages),
        parameters=_parameters(line, NOT_PARAMETERS),
        answer=answer,
        tool_calls=calls,
        finish_reason="tool_calls" if calls else "stop",
        model=_text(line.get("model")),
        trainable=0 not in weights,
    )


def _stored(line: Line) -> Exchange:
    if isinstance(line.get("request"), dict) and isinstance(line.get("response"), dict):
        return _exchange(line["request"], line["response"])
    completion = line["completion"] if isinstance(line.get("completion"), dict) else line
    sent = next((each[name] for each in (line, completion) for name in SENT if each.get(name)), None)
    if isinstance(sent, dict):
        sent = cast("Line", sent).get("data")  # as the endpoint of a stored completion's messages lists them
    asked = _parameters(completion, NOT_ASKED)
    if isinstance(completion.get("input_user"), str):
        asked["user"] = completion["input_user"]
    return _exchange(asked | {"messages": sent}, completion)


def _batch(line: Line, sent: Callable[[str], Line]) -> Exchange:
    response, name = line.get("response"), line.get("custom_id")
    if not isinstance(response, dict) or line.get("error"):
        raise Unreadable(f"the batch has no answer to {name!r}")
    reply = cast("Line", response)
    if reply.get("status_code") != 200 or not isinstance(reply.get("body"), dict):
        raise Unreadable(f"the batch's request {name!r} failed with status {reply.get('status_code')}")
    request = sent(str(name))
    if request.get("url") != "/v1/chat/completions" or not isinstance(request.get("body"), dict):
        raise Unreadable(f"the batch's request {name!r} was of {request.get('url')}, not of a chat")
    return _exchange(request["body"], reply["body"])


FORMATS: Final[dict[str, Callable[[Line], Exchange]]] = {
    "openai-chat": _fine_tuning,
    "stored-completions": _stored,
}
"""By name, what reads a line that is whole by itself."""


def _exchange(request: Line, response: Line) -> Exchange:
    """A chat's request with the chat completion that answered it; of several choices the first."""
    choices = response.get("choices")
    choice = cast("Any", choices)[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise Unreadable("it has no answer (choices[0].message)")
    answer, calls = _answer(choice["message"])
    messages = _messages(request.get("messages"))
    if messages and messages[-1].get("role") == "assistant" and _content(messages[-1]) == answer:
        messages.pop()
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return Exchange(
        messages=_some(messages),
        parameters=_parameters(request, NOT_PARAMETERS),
        answer=answer,
        tool_calls=calls,
        finish_reason=_text(choice.get("finish_reason")) or "stop",
        logprobs=content if isinstance(content, list) and all(map(_is_logprob, content)) else None,
        model=_text(response.get("model")) or _text(request.get("model")),
        created_at=_milliseconds(response.get("created")),
        tokens=_tokens(response.get("usage")),
        own_id=_text(response.get("id")),
        trainable=request.get("store") is not False,
    )


def _messages(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
        raise Unreadable("it has no list of messages")
    return [_message(message) for message in cast("list[Line]", given)]


def _message(given: Line) -> dict[str, Any]:
    if not isinstance(given.get("role"), str):
        raise Unreadable("a message has no role")
    message = {name: value for name, value in given.items() if name not in OF_A_LISTING and value is not None}
    if "content" not in message and given.get("content_parts"):
        message["content"] = given["content_parts"]
    return message if "content" in message else message | {"content": None}


def _some(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not messages:
        raise Unreadable("it has no messages before the answer")
    return messages


def _answer(message: Line) -> tuple[str, list[dict[str, Any]] | None]:
    answer, calls = _content(message), message.get("tool_calls") or None
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise Unreadable("its tool_calls are no list of objects")
    if not answer and calls is None:
        raise Unreadable("its answer is empty")
    return answer, calls


def _content(message: Line) -> str:
    """The text; of a list of parts, as fine-tuning files may have it, their texts together."""
    content = message.get("content")
    if isinstance(content, list):
        parts = cast("list[Any]", content)
        content = "".join(
            part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else ""


def _parameters(given: Line, without: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in without and value is not None}


def _is_logprob(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("token"), str)
        and isinstance(entry.get("logprob"), int | float)
        and isinstance(entry.get("top_logprobs") or [], list)
    )


def _milliseconds(created: Any) -> int | None:
    return created * 1000 if isinstance(created, int) and created in SECONDS else None


def _tokens(usage: Any) -> Tokens:
    if not isinstance(usage, dict):
        return NO_TOKENS
    counts = cast("Line", usage)
    details = counts.get("prompt_tokens_details")
    cached = cast("Line", details).get("cached_tokens") if isinstance(details, dict) else 0
    return Tokens(*map(_count, (counts.get("prompt_tokens"), counts.get("completion_tokens"), cached)))


def _count(given: Any) -> int:
    return given if isinstance(given, int) and 0 <= given < MAX_TOKENS else 0


def _text(given: Any) -> str | None:
    return given if isinstance(given, str) and given else None
