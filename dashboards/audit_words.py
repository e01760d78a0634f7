"""Entries of the audit in words: which fields a change set from what to what, and what else is told of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dashboards import words
from ledger.audit import Entry

__all__ = ("Line", "changes", "line", "value")

UNSET: Final = "none"
LONGEST: Final = 400
"""Characters of a value; the CSV and the API have all of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table. ``changed`` are (field, before, after), ``told`` are (field, value)."""

    entry: Entry
    actor: str
    changed: list[tuple[str, str, str]]
    told: list[tuple[str, str]]


def line(entry: Entry, names: Mapping[str, str]) -> Line:
    """With the actor's name, where it is a key's id; ``names`` are those of the keys by id."""
    actor = f"{names[entry.actor]} ({entry.actor})" if entry.actor in names else entry.actor
    rest = {name: of for name, of in entry.detail.items() if name not in ("before", "after")}
    return Line(entry, actor, changes(entry.detail), [(name, value(name, of)) for name, of in rest.items()])


def changes(detail: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(field, before, after) of what differs, fields within fields by dotted names."""
    if "before" not in detail and "after" not in detail:
        return []
    before, after = _flat("", detail.get("before")), _flat("", detail.get("after"))
    return [
        (name, value(name, before.get(name)), value(name, after.get(name)))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]


def value(name: str, of: Any) -> str:
    """A field's value; what is named like a time and can be one is written as one."""
    if of is None:
        return UNSET
    if isinstance(of, int) and not isinstance(of, bool) and name.endswith(("_at", "until")):
        return words.when(of)
    if isinstance(of, bool):
        return "yes" if of else "no"
    text = of if isinstance(of, str) else msgspec.json.encode(of).decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _flat(prefix: str, of: Any) -> dict[str, Any]:
    if not isinstance(of, dict):
        return {} if of is None else {prefix or "value": of}
    found: dict[str, Any] = {}
    for name, each in of.items():
        dotted = f"{prefix}.{name}" if prefix else str(name)
        found |= _flat(dotted, each) if isinstance(each, dict) else {dotted: each}
    return found
