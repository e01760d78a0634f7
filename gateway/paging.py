"""The lists of ``/admin/v1``, page by page, in the shape of OpenAI's: ``limit``, ``after``, ``has_more``.

``after`` is the id of the last thing on the page before.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from litestar import Response

from gateway.admin_requests import json_answer
from gateway.errors import BadRequest

__all__ = ("DEFAULT_LIMIT", "MAX_LIMIT", "limit_of", "listed", "number_of", "text_of")

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000
MAX_DIGITS: Final = 18


def limit_of(query: Mapping[str, str]) -> int:
    """How many are asked for. Raises `BadRequest`."""
    limit = _whole(query.get("limit", str(DEFAULT_LIMIT)))
    if limit is None or not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f"'limit' must be an integer between 1 and {MAX_LIMIT}", param="limit")
    return limit


def number_of(query: Mapping[str, str], name: str) -> int | None:
    """A whole number from 0, as an id or a time in ms is one; None where it is not given. Raises `BadRequest`."""
    text = query.get(name)
    if text is None:
        return None
    number = _whole(text)
    if number is None:
        raise BadRequest(f"'{name}' must be a whole number", param=name)
    return number


def text_of(query: Mapping[str, str], name: str) -> str | None:
    """A filter; None where it is not given or empty. Raises `BadRequest` for what no text of the ledger can be."""
    text = query.get(name) or None
    if text is not None and ("\0" in text or not text.isprintable()):
        raise BadRequest(f"'{name}' holds what cannot be printed", param=name)
    return text


def listed(found: Sequence[Any], limit: int) -> Response[bytes]:
    """A page of what was read, one more than the limit where there is so much."""
    return json_answer({"object": "list", "data": found[:limit], "has_more": len(found) > limit})


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None
