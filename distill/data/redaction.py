"""Placeholders for personal data, the same for the same value within a conversation, and back again.

The mapping is never written with a dataset: it is given back to the caller, who may keep it apart or forget it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from distill.data.recognisers import personal
from distill.data.rows import Messages, Row

__all__ = ("Redacted", "kinds_of", "redact", "redact_row", "restore")

PLACEHOLDER: Final = re.compile(r"<[A-Z]{2,10}_\d{1,9}>")
NOT_TEXT: Final = ("role", "type")
"""Fields of a message that say what it is."""
NAMES_A_USER: Final = ("user", "safety_identifier", "metadata", "prompt_cache_key")
"""Parameters that may hold what a client calls its user; no answer depends on them."""


@dataclass(frozen=True)
class Redacted:
    """Texts without personal data, and what each placeholder in them stands for."""

    texts: list[str]
    mapping: dict[str, str]


def redact(texts: Sequence[str], region: str | None) -> Redacted:
    """Hide what is personal in the texts of one conversation, given in its order.

    Placeholders are numbered by first appearance, so that a conversation that goes on keeps them; one that a text
    already has is not given again. ``restore`` with the mapping gives the texts back.
    """
    kinds: dict[str, str] = {}
    for text in texts:
        for kind, value in personal(text, region):
            kinds.setdefault(value, kind)
    if not kinds:
        return Redacted(list(texts), {})
    # a value is hidden wherever it stands, also where a recogniser would not have seen it
    any_value = re.compile("|".join(re.escape(value) for value in sorted(kinds, key=len, reverse=True)))
    names = _Names({literal for text in texts for literal in PLACEHOLDER.findall(text)})
    hidden = [any_value.sub(lambda match: names.of(kinds[match[0]], match[0]), text) for text in texts]
    return Redacted(hidden, {name: value for value, name in names.given.items()})


def restore(text: str, mapping: dict[str, str]) -> str:
    """The text with what its placeholders stand for."""
    return PLACEHOLDER.sub(lambda match: mapping.get(match[0], match[0]), text)


def redact_row(row: Row, region: str | None) -> tuple[Row, dict[str, str]]:
    """The row with placeholders in its messages and its answer, and what they stand for.

    Where the answer changed, the teacher's log-probabilities go: they are about tokens that are no longer there, and
    what else was likely before them may be the beginning of what was hidden. Where only the prompt changed they stay.
    """
    parameters = {name: value for name, value in row.parameters.items() if name not in NAMES_A_USER}
    redacted = redact([*_strings(row.messages), row.answer], region)
    if not redacted.mapping:
        return msgspec.structs.replace(row, parameters=parameters), {}
    *said, answer = redacted.texts
    left = iter(said)
    messages = cast("Messages", _mapped(row.messages, lambda _text: next(left)))
    logprobs = row.logprobs if answer == row.answer else None
    changed = msgspec.structs.replace(row, messages=messages, parameters=parameters, answer=answer, logprobs=logprobs)
    return changed, redacted.mapping


def kinds_of(mapping: Iterable[str]) -> Iterator[str]:
    """The kinds of placeholders: ``EMAIL`` of ``<EMAIL_1>``."""
    return (name[1:].rpartition("_")[0] for name in mapping)


class _Names:
    """Gives placeholders, by value."""

    def __init__(self, taken: set[str]) -> None:
        self.given: dict[str, str] = {}
        self._taken = taken
        self._last: dict[str, int] = {}

    def of(self, kind: str, value: str) -> str:
        if value not in self.given:
            self.given[value] = self._new(kind)
        return self.given[value]

    def _new(self, kind: str) -> str:
        while True:
            self._last[kind] = self._last.get(kind, 0) + 1
            name = f"<{kind}_{self._last[kind]}>"
            if name not in self._taken:
                return name


def _strings(value: Any) -> list[str]:
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    _mapped(value, keep)
    return found


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The JSON value with its texts changed, in their order."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(each, change) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {name: each if name in NOT_TEXT else _mapped(each, change) for name, each in items}
    return value
