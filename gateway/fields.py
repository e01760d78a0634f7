"""Fields of a request in another API's shape, on their way into a chat: what every such translation checks alike."""

from collections.abc import Mapping
from typing import Any

from gateway.errors import BadRequest

__all__ = ("check_fields", "simplest", "text_field", "unsupported")


def unsupported(param: str, what: str) -> BadRequest:
    """OpenAI's error for a parameter that is known and cannot be served."""
    return BadRequest(
        f"The models behind this gateway cannot be asked for {what}.", code="unsupported_parameter", param=param
    )


def check_fields(
    body: Mapping[str, Any],
    shapes: Mapping[str, tuple[type, str]],
    cannot: Mapping[str, tuple[tuple[Any, ...], str]],
) -> None:
    """Each field's type by ``shapes``, and that none of ``cannot`` is asked for. Raises `BadRequest`."""
    for name, (shape, described) in shapes.items():
        value = body.get(name)
        # not isinstance: true is no integer
        if value is not None and type(value) is not shape:
            raise BadRequest(f"'{name}' must be {described}", param=name)
    for name, (harmless, described) in cannot.items():
        if body.get(name) is not None and body[name] not in harmless:
            raise unsupported(name, described)


def text_field(fields: Mapping[str, Any], name: str, place: str) -> str:
    """A field that must be a string. Raises `BadRequest` with its place."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"'{name}' must be a string", param=f"{place}.{name}")
    return value


def simplest(parts: list[dict[str, Any]]) -> Any:
    """A chat's parts; one text as a string, which every server and template takes."""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts
