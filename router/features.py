"""What the router looks at: the view of a request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

__all__ = ("RequestView", "edges")

EDGE_CHARS = 4_000
TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
SCHEMA_FORMATS = frozenset({"json_schema", "json_object"})
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})


@dataclass(frozen=True, slots=True)
class RequestView:
    """What the router looks at, made from the body of a chat request.

    `messages` holds (role, text) in order. `has_images` stands for every part that is not text (images,
    audio, files); such parts are not in the text. `max_tokens` is the bound the client set, if it did.
    """

    messages: tuple[tuple[str, str], ...]
    has_images: bool = False
    has_tools: bool = False
    wants_schema: bool = False
    n: int = 1
    max_tokens: int | None = None
    unserved: bool = False
    """True for a request with one of the `UNSERVED` fields: no student can do it, whatever it says."""
    tools: int = 0
    """How many tools it offers."""
    group: str = ""
    """What it belongs to, by its first tag; nothing where it has none."""

    @staticmethod
    def from_body(body: Mapping[str, object], tags: Sequence[str] = ()) -> "RequestView":
        """View of a decoded OpenAI chat body and its tags. Odd shapes count as absent; nothing is raised."""
        messages: list[tuple[str, str]] = []
        has_images, tools = False, _list(body.get("tools")) or _list(body.get("functions"))
        has_tools = bool(tools)
        for message in map(_mapping, _list(body.get("messages"))):
            text, other = _content(message.get("content"))
            messages.append((_string(message.get("role")), text))
            has_images = has_images or other
            has_tools = has_tools or _is_tool_turn(message)
        return RequestView(
            messages=tuple(messages),
            has_images=has_images,
            has_tools=has_tools,
            wants_schema=_string(_mapping(body.get("response_format")).get("type")) in SCHEMA_FORMATS,
            n=_positive(body.get("n")) or 1,
            max_tokens=_positive(body.get("max_completion_tokens")) or _positive(body.get("max_tokens")),
            unserved=any(UNSERVED[name](body[name]) for name in UNSERVED.keys() & body.keys()),
            tools=len(tools),
            group=tags[0] if tags else "",
        )

    def text(self) -> str:
        """The user's turns, one per line: what the features read."""
        return "\n".join(text for role, text in self.messages if role == "user")


def edges(text: str) -> str:
    """What is read of a text: its first and its last 4,000 characters."""
    return text if len(text) <= 2 * EDGE_CHARS else f"{text[:EDGE_CHARS]}\n{text[-EDGE_CHARS:]}"


def _content(content: object) -> tuple[str, bool]:
    """The text of a message's content, and whether it has parts other than text."""
    if isinstance(content, str):
        return content, False
    parts = [{"type": "text", "text": part} if isinstance(part, str) else _mapping(part) for part in _list(content)]
    is_text = [_string(part.get("type")) in TEXT_PARTS for part in parts]
    texts = [_string(part.get("text")) for part, readable in zip(parts, is_text, strict=True) if readable]
    return "\n".join(texts), not all(is_text)


def _is_tool_turn(message: Mapping[str, object]) -> bool:
    return message.get("role") in ("tool", "function") or bool(_list(message.get("tool_calls")))


def _mapping(value: object) -> Mapping[str, object]:
    if isinstance(value, dict):  # what JSON is decoded to; asking the abstract class takes five times as long
        return cast("Mapping[str, object]", value)
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _is_given(value: object) -> bool:
    return value is not None and value is not False


def _wants_more_than_text(modalities: object) -> bool:
    return any(modality != "text" for modality in _list(modalities))


def _is_unknown_effort(effort: object) -> bool:
    return effort is not None and _string(effort) not in EFFORTS


def _has_other_tools(tools: object) -> bool:
    return any(_mapping(tool).get("type", "function") != "function" for tool in _list(tools))


# `prediction`, `verbosity`, `service_tier` and `store` are hints that do not change what an answer is: a student
# passes over them. `response_format`, `logit_bias`, `seed`, `stop` and `logprobs` its engine has.
UNSERVED: Final[dict[str, Callable[[object], bool]]] = {
    "audio": _is_given,
    "functions": _is_given,
    "modalities": _wants_more_than_text,
    "prompt_embeds": _is_given,
    "reasoning_effort": _is_unknown_effort,
    "tools": _has_other_tools,
    "web_search_options": _is_given,
}
"""Fields of a request that no student's engine has, each with what tells whether it is asked for.

An engine passes over a field that it does not know, so the answer would lack what was asked without saying so.
"""
