"""One request with its answer, as the files of others have them: what is read of a chat and of its completion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from ledger.prices import Tokens

__all__ = (
    "NOT_PARAMETERS",
    "Exchange",
    "Line",
    "Unreadable",
    "answer_of",
    "exchange_of",
    "messages_of",
    "parameters_of",
    "some",
    "text_of",
    "tokens_of",
    "whole_number",
)

NOT_PARAMETERS: Final = frozenset({"messages", "model", "store", "stream", "stream_options", "weight"})
OF_A_LISTING: Final = frozenset({"id", "content_parts", "weight"})
"""What of a message the model was not shown."""
SECONDS: Final = range(1_000_000_000, 100_000_000_000)
MAX_TOKENS: Final = 2**53
NO_TOKENS: Final = Tokens()

Line: TypeAlias = Mapping[str, Any]


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


def exchange_of(request: Line, response: Line) -> Exchange:
    """A chat's request with the chat completion that answered it; of several choices the first."""
    choices = response.get("choices")
    choice = cast("Any", choices)[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise Unreadable("it has no answer (choices[0].message)")
    answer, calls = answer_of(choice["message"])
    messages = messages_of(request.get("messages"))
    if messages and messages[-1].get("role") == "assistant" and _content(messages[-1]) == answer:
        messages.pop()
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return Exchange(
        messages=some(messages),
        parameters=parameters_of(request, NOT_PARAMETERS),
        answer=answer,
        tool_calls=calls,
        finish_reason=text_of(choice.get("finish_reason")) or "stop",
        logprobs=content if isinstance(content, list) and all(map(_is_logprob, content)) else None,
        model=text_of(response.get("model")) or text_of(request.get("model")),
        created_at=_milliseconds(response.get("created")),
        tokens=tokens_of(response.get("usage")),
        own_id=text_of(response.get("id")),
        trainable=request.get("store") is not False,
    )


def messages_of(given: Any) -> list[dict[str, Any]]:
    """The messages as a model was shown them. Raises `Unreadable`."""
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


def some(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, of which there must be one. Raises `Unreadable`."""
    if not messages:
        raise Unreadable("it has no messages before the answer")
    return messages


def answer_of(message: Line) -> tuple[str, list[dict[str, Any]] | None]:
    """Text and tool calls of an assistant's message. Raises `Unreadable`."""
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


def parameters_of(given: Line, without: frozenset[str]) -> dict[str, Any]:
    """What else a request has."""
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


def tokens_of(usage: Any) -> Tokens:
    """OpenAI's ``usage``; zeros where it is none."""
    if not isinstance(usage, dict):
        return NO_TOKENS
    counts = cast("Line", usage)
    details = counts.get("prompt_tokens_details")
    cached = cast("Line", details).get("cached_tokens") if isinstance(details, dict) else 0
    return Tokens(*map(whole_number, (counts.get("prompt_tokens"), counts.get("completion_tokens"), cached)))


def whole_number(given: Any) -> int:
    """A count; 0 for what is none."""
    return given if isinstance(given, int) and 0 <= given < MAX_TOKENS else 0


def text_of(given: Any) -> str | None:
    """A text that is not empty."""
    return given if isinstance(given, str) and given else None
