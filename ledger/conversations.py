"""Whose a request's content is: its conversation's id and its user's, both hashes, so that it can be found again."""

import hashlib
from typing import Any, Final

import msgspec

from ledger.records import Content

__all__ = ("USER_FIELDS", "conversation_id", "user_id", "user_id_of")

USER_FIELDS: Final = ("safety_identifier", "user")
"""Where OpenAI's clients name their end user, the newer field first."""


def conversation_id(messages: list[dict[str, Any]]) -> str:
    """The conversation that the messages belong to, as 32 hex digits: the same first user message, the same one.

    Case and blanks do not count. A conversation that goes on resends its messages, so that its id stays.
    """
    first = next((m.get("content") for m in messages if m.get("role") == "user"), "")
    text = first if isinstance(first, str) else msgspec.json.encode(first).decode()
    return _digest(" ".join(text.casefold().split()))


def user_id(content: Content) -> str | None:
    """The end user that the request names, hashed; None where it names none."""
    named = next((content.parameters.get(field) for field in USER_FIELDS if content.parameters.get(field)), None)
    return user_id_of(named) if isinstance(named, str) else None


def user_id_of(name: str) -> str:
    """The id under which the content of a user of this name is kept, as 32 hex digits."""
    return _digest(f"user:{name}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
