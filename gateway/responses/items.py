"""Items, of which a response's input and output are made, as messages of a chat."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from gateway.errors import BadRequest
from gateway.fields import simplest, text_field, unsupported

__all__ = ("Item", "Message", "chat_messages", "input_items")

Item: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]

ROLES: Final = ("user", "assistant", "system", "developer")
ID_PREFIXES: Final = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def input_items(value: Any, suffix: str) -> list[Item]:
    """A request's ``input`` as a list of items, each with a type, and an id made from ``suffix`` if it has none.

    Raises `BadRequest`.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in cast("list[Any]", value)):
        raise BadRequest("'input' must be a string or a list of items", param="input")
    return [_item(item, i, suffix) for i, item in enumerate(cast("list[Item]", value))]


def _item(given: Item, i: int, suffix: str) -> Item:
    kind = given.get("type") or "message"
    if not isinstance(kind, str) or kind not in CONVERTERS:
        raise unsupported(f"input[{i}].type", f"an item of type '{kind}'")
    item: Item = {"status": "completed"} | given | {"type": kind}
    item["id"] = given.get("id") or f"{ID_PREFIXES[kind]}_{suffix}i{i}"
    content = given.get("content")
    if kind == "message" and isinstance(content, str):
        part = "output_text" if given.get("role") == "assistant" else "input_text"
        item["content"] = [{"type": part, "text": content} | ({"annotations": []} if part == "output_text" else {})]
    return item


def chat_messages(items: Sequence[Item]) -> list[Message]:
    """The items as messages. Raises `BadRequest` with the place in ``input`` that is wrong."""
    messages: list[Message] = []
    for i, item in enumerate(items):
        CONVERTERS[item["type"]](item, f"input[{i}]", messages)
    return messages


def _message(item: Item, place: str, messages: list[Message]) -> None:
    role = item.get("role")
    if role not in ROLES:
        raise BadRequest(f"'role' must be one of {', '.join(ROLES)}", param=f"{place}.role")
    parts = _parts(item.get("content"), f"{place}.content")
    if role != "assistant":
        messages.append({"role": role, "content": simplest(parts)})
        return
    message: Message = {"role": role, "content": "".join(part["text"] for part in parts if part["type"] == "text")}
    refusals = [part["refusal"] for part in parts if part["type"] == "refusal"]
    messages.append(message | ({"refusal": "".join(refusals)} if refusals else {}))


def _function_call(item: Item, place: str, messages: list[Message]) -> None:
    """A chat has the calls of one turn in one message, with the text before them."""
    function = {"name": text_field(item, "name", place), "arguments": text_field(item, "arguments", place)}
    call = {"id": text_field(item, "call_id", place), "type": "function", "function": function}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _function_call_output(item: Item, place: str, messages: list[Message]) -> None:
    output = item.get("output")
    content = output if isinstance(output, str) else simplest(_parts(output, f"{place}.output"))
    messages.append({"role": "tool", "tool_call_id": text_field(item, "call_id", place), "content": content})


def _reasoning(_item: Item, _place: str, _messages: list[Message]) -> None:
    """What another model thought: a chat has no place for it, and no model needs it."""


CONVERTERS: Final[dict[str, Callable[[Item, str, list[Message]], None]]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
}


def _parts(content: Any, place: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadRequest("it must be a string or a list of parts", param=place)
    parts: list[dict[str, Any]] = []
    for i, part in enumerate(cast("list[Any]", content)):
        where = f"{place}[{i}]"
        fields = cast("Mapping[str, Any]", part) if isinstance(part, Mapping) else {}
        convert = PARTS.get(str(fields.get("type")))
        if convert is None:
            raise unsupported(f"{where}.type", f"a part of type '{fields.get('type')}'")
        parts.append(convert(fields, where))
    return parts


def _text_part(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    return {"type": "text", "text": text_field(part, "text", place)}


def _refusal_part(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text_field(part, "refusal", place)}


def _image_part(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    if part.get("file_id") is not None:
        raise unsupported(f"{place}.file_id", "an image by file id")
    detail = part.get("detail")
    url = {"url": text_field(part, "image_url", place)} | ({"detail": detail} if isinstance(detail, str) else {})
    return {"type": "image_url", "image_url": url}


def _file_part(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    if part.get("file_url") is not None:
        raise unsupported(f"{place}.file_url", "a file by URL")
    names = ("file_data", "file_id", "filename")
    return {"type": "file", "file": {name: part[name] for name in names if part.get(name) is not None}}


def _audio_part(part: Mapping[str, Any], _place: str) -> dict[str, Any]:
    return dict(part)


PARTS: Final[dict[str, Callable[[Mapping[str, Any], str], dict[str, Any]]]] = {
    "input_text": _text_part,
    "output_text": _text_part,
    "text": _text_part,
    "refusal": _refusal_part,
    "input_image": _image_part,
    "input_file": _file_part,
    "input_audio": _audio_part,
}
