"""The shapes in which others export what was asked and answered: one line of a file as one exchange.

``openai-chat`` is OpenAI's file of fine-tuning examples; ``stored-completions`` its stored chat completions, each
with the messages that were sent, and any log of ``{"request": ..., "response": ...}``; ``batch`` the Batch API's
output, each line with the body that was its input; ``litellm`` and ``helicone`` those gateways' own exports.
"""

from collections.abc import Callable
from typing import Final, cast

from distill.exchange import (
    NOT_PARAMETERS,
    Exchange,
    Line,
    Unreadable,
    answer_of,
    exchange_of,
    messages_of,
    parameters_of,
    some,
    text_of,
)
from distill.gateway_exports import is_helicone, is_litellm, read_helicone, read_litellm

__all__ = ("FORMATS", "format_of", "is_batch_input", "read_exchange")

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


def format_of(line: Line) -> str:
    """The format that the line is in. Raises `Unreadable`."""
    if "custom_id" in line:
        return "batch"
    if is_litellm(line):
        return "litellm"
    if is_helicone(line):
        return "helicone"
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
    messages = messages_of(line.get("messages"))
    last = messages.pop() if messages else {}
    if last.get("role") != "assistant":
        raise Unreadable("the last message is not the assistant's")
    weights = (line.get("weight"), line["messages"][-1].get("weight"))
    answer, calls = answer_of(last)
    return Exchange(
        messages=some(messages),
        parameters=parameters_of(line, NOT_PARAMETERS),
        answer=answer,
        tool_calls=calls,
        finish_reason="tool_calls" if calls else "stop",
        model=text_of(line.get("model")),
        trainable=0 not in weights,
    )


def _stored(line: Line) -> Exchange:
    if isinstance(line.get("request"), dict) and isinstance(line.get("response"), dict):
        return exchange_of(line["request"], line["response"])
    completion = line["completion"] if isinstance(line.get("completion"), dict) else line
    sent = next((each[name] for each in (line, completion) for name in SENT if each.get(name)), None)
    if isinstance(sent, dict):
        sent = cast("Line", sent).get("data")  # as the endpoint of a stored completion's messages lists them
    asked = parameters_of(completion, NOT_ASKED)
    if isinstance(completion.get("input_user"), str):
        asked["user"] = completion["input_user"]
    return exchange_of(asked | {"messages": sent}, completion)


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
    return exchange_of(request["body"], reply["body"])


FORMATS: Final[dict[str, Callable[[Line], Exchange]]] = {
    "openai-chat": _fine_tuning,
    "stored-completions": _stored,
    "litellm": read_litellm,
    "helicone": read_helicone,
}
"""By name, what reads a line that is whole by itself."""
