"""JSON from clients and upstreams: decoded with bounds, so that what was read can be written again."""

from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec

__all__ = (
    "MAX_DEPTH", "NotJson", "as_written", "count", "decode_answer", "decode_object", "encode", "items", "mapping",
    "objects", "string",
)  # fmt: skip

MAX_DEPTH: Final = 100

encode: Final = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder()
_written = msgspec.json.Decoder(dict[str, msgspec.Raw])


class NotJson(ValueError):
    """Bytes that are not a JSON object within the bounds."""


def decode_object(raw: bytes) -> dict[str, Any]:
    """Decode a JSON object of at most `MAX_DEPTH` levels. Raises `NotJson`, whatever the bytes are."""
    body = decode_answer(raw)
    # the brackets bound the depth from above, and spare almost every body the walk
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_too_deep(body):
        raise NotJson(f"it is nested more than {MAX_DEPTH} levels deep")
    return body


def decode_answer(raw: bytes) -> dict[str, Any]:
    """Decode an upstream's JSON object. Its depth is not looked at, so writing it again may raise `RecursionError`.

    Raises `NotJson`.
    """
    try:
        value = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJson(str(error)) from error
    if not isinstance(value, dict):
        raise NotJson("it must be an object")
    return cast("dict[str, Any]", value)


def as_written(raw: bytes) -> dict[str, Any]:
    """The fields of an object that `decode_object` has taken, each as its own bytes.

    Encoded again, a field is what its writer wrote: no digit of a number, escape or repeated name is lost.
    """
    return cast("dict[str, Any]", _written.decode(raw))


def string(value: Any) -> str:
    """A string as it is, anything else as none."""
    return value if isinstance(value, str) else ""


def count(value: Any) -> int:
    """A whole number as it is, anything else as 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def mapping(value: Any) -> dict[str, Any]:
    """An object as it is, anything else as an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """A list as it is, anything else as an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list."""
    for item in items(value):
        if isinstance(item, dict):
            yield cast("dict[str, Any]", item)


def _is_too_deep(body: dict[str, Any]) -> bool:
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
