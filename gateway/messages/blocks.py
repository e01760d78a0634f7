"""Blocks, of which Anthropic's messages are made, as the messages of a chat."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from gateway.errors import BadRequest
from gateway.fields import simplest, text_field, unsupported
from gateway.wire import encode, items, mapping, string

__all__ = ("Message", "chat_messages", "system_text")

Block: TypeAlias = Mapping[str, Any]
Message: TypeAlias = dict[str, Any]
Part: TypeAlias = dict[str, Any]

ROLES: Final = ("user", "assistant", "system")
THOUGHTS: Final = ("thinking", "redacted_thinking")
"""What another model thought: a chat has no place for it, and no model needs it."""


def chat_messages(value: Any) -> list[Message]:
    """A request's ``messages``. Raises `BadRequest` with the place that is wrong."""
    given = items(value)
    if not given or not all(isinstance(message, dict) for message in given):
        raise BadRequest("'messages' must be a list of at least one message", param="messages")
    messages: list[Message] = []
    for i, message in enumerate(given):
        place, role = f"messages.{i}", message.get("role")
        if role not in ROLES:
            raise BadRequest(f"'role' must be one of {', '.join(ROLES)}", param=f"{place}.role")
        blocks = _blocks(message.get("content"), f"{place}.content")
        if role == "assistant":
            messages.append(_assistant(blocks, f"{place}.content"))
        elif role == "system":
            messages.append({"role": "system", "content": _joined(blocks, f"{place}.content")})
        else:
            messages += _user(blocks, f"{place}.content")
    return messages


def system_text(value: Any) -> str:
    """A request's ``system``, a string or blocks of text. Raises `BadRequest`."""
    return _joined(_blocks(value, "system"), "system")


def _blocks(content: Any, place: str) -> list[Block]:
    """Content as blocks. Raises `BadRequest`."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in items(content)):
        raise BadRequest("it must be a string or a list of blocks", param=place)
    return items(content)


def _joined(blocks: list[Block], place: str) -> str:
    for i, block in enumerate(blocks):
        if block.get("type") != "text":
            raise BadRequest("only blocks of text may stand here", param=f"{place}.{i}.type")
    return "\n\n".join(text_field(block, "text", f"{place}.{i}") for i, block in enumerate(blocks))


def _user(blocks: list[Block], place: str) -> list[Message]:
    """What tools gave is a message each, before what the user says."""
    results: list[Message] = []
    parts: list[Part] = []
    for i, block in enumerate(blocks):
        if block.get("type") == "tool_result":
            results.append(_tool_result(block, f"{place}.{i}"))
        else:
            parts += _parts(block, f"{place}.{i}")
    said = [{"role": "user", "content": simplest(parts)}] if parts or not results else []
    return [*results, *said]


def _tool_result(block: Block, place: str) -> Message:
    content: Any = ""
    if block.get("content") is not None:
        inner = _blocks(block["content"], f"{place}.content")
        content = simplest([part for i, each in enumerate(inner) for part in _parts(each, f"{place}.content.{i}")])
    return {"role": "tool", "tool_call_id": text_field(block, "tool_use_id", place), "content": content or ""}


def _assistant(blocks: list[Block], place: str) -> Message:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for i, block in enumerate(blocks):
        where, kind = f"{place}.{i}", block.get("type")
        if kind == "text":
            texts.append(text_field(block, "text", where))
        elif kind == "tool_use":
            calls.append(_tool_use(block, where))
        elif kind not in THOUGHTS:
            raise unsupported(f"{where}.type", f"a block of type '{kind}' of the assistant")
    text = "".join(texts)
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": text or None, "tool_calls": calls}


def _tool_use(block: Block, place: str) -> dict[str, Any]:
    given = block.get("input")
    if not isinstance(given, dict):
        raise BadRequest("'input' must be an object", param=f"{place}.input")
    function = {"name": text_field(block, "name", place), "arguments": encode(given).decode()}
    return {"id": text_field(block, "id", place), "type": "function", "function": function}


def _parts(block: Block, place: str) -> list[Part]:
    convert = PARTS.get(str(block.get("type")))
    if convert is None:
        raise unsupported(f"{place}.type", f"a block of type '{block.get('type')}'")
    return convert(block, place)


def _text(block: Block, place: str) -> list[Part]:
    return [{"type": "text", "text": text_field(block, "text", place)}]


def _image(block: Block, place: str) -> list[Part]:
    source, where = mapping(block.get("source")), f"{place}.source"
    if source.get("type") == "base64":
        return [{"type": "image_url", "image_url": {"url": _data_url(source, where)}}]
    if source.get("type") == "url":
        return [{"type": "image_url", "image_url": {"url": text_field(source, "url", where)}}]
    raise unsupported(f"{where}.type", f"an image from a source of type '{source.get('type')}'")


def _document(block: Block, place: str) -> list[Part]:
    """Text as text, its title before it; a PDF as a file."""
    source, where = mapping(block.get("source")), f"{place}.source"
    title = string(block.get("title"))
    head: list[Part] = [{"type": "text", "text": line} for line in (title, string(block.get("context"))) if line]
    if source.get("type") == "text":
        return [*head, {"type": "text", "text": text_field(source, "data", where)}]
    if source.get("type") == "content":
        inner = _blocks(source.get("content"), f"{where}.content")
        return head + [part for i, each in enumerate(inner) for part in _parts(each, f"{where}.content.{i}")]
    if source.get("type") == "base64":
        file = {"filename": title or "document.pdf", "file_data": _data_url(source, where)}
        return [{"type": "file", "file": file}]
    raise unsupported(f"{where}.type", f"a document from a source of type '{source.get('type')}'")


def _search_result(block: Block, place: str) -> list[Part]:
    texts = [text_field(block, "title", place), text_field(block, "source", place)]
    return [
        {"type": "text", "text": "\n".join(texts)},
        {"type": "text", "text": _joined(_blocks(block.get("content"), f"{place}.content"), f"{place}.content")},
    ]


def _data_url(source: Mapping[str, Any], place: str) -> str:
    return f"data:{text_field(source, 'media_type', place)};base64,{text_field(source, 'data', place)}"


PARTS: Final[dict[str, Callable[[Block, str], list[Part]]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
}
