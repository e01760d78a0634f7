"""The explorer's filters as an address says them: the same names on the page and in the admin API."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from ledger.explorer import MAX_LIMIT, Filters, Place, Wanted

__all__ = ("NAMES", "ROUTES", "SCORES", "TIMES", "QueryError", "read_filters", "read_wanted")

MAX_CHARACTERS: Final = 200
INT64: Final = 2**63
TIMES: Final = ("since", "until")
SCORES: Final = ("score_min", "score_max")
ROUTES: Final = ("student", "teacher")
NAMES: Final = tuple(field.name for field in fields(Filters))
"""Of the parameters."""


class QueryError(ValueError):
    """A parameter that cannot be read; ``field`` is its name."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"'{field}' {why}")
        self.field = field


def read_filters(query: Mapping[str, str]) -> Filters:
    """Raises `QueryError`. What is empty counts as not said."""
    said = {name: value for name in NAMES if (value := query.get(name, "").strip())}
    values: dict[str, Any] = {}
    for name, text in said.items():
        if len(text) > MAX_CHARACTERS or "\0" in text:
            raise QueryError(name, f"must be at most {MAX_CHARACTERS} characters without NUL")
        values[name] = _time(name, text) if name in TIMES else _score(name, text) if name in SCORES else text
    if values.get("route", "student") not in ROUTES:
        raise QueryError("route", "must be student or teacher")
    status = values.get("status", "ok")
    if status not in ("ok", "error") and not (len(status) == 3 and status.isascii() and status.isdecimal()):
        raise QueryError("status", "must be ok, error, or a number such as 429")
    return Filters(**values)


def read_wanted(query: Mapping[str, str], limit: int) -> Wanted:
    """The page: ``before`` and ``limit``, which is this one where none is said. Raises `QueryError`."""
    wanted, before, said = Wanted(limit=limit), query.get("before", ""), query.get("limit", "")
    if before:
        try:
            wanted = replace(wanted, before=Place.read(before))
        except ValueError as error:
            raise QueryError("before", f"cannot be read: {error}") from error
    if said:
        number = int(said) if said.isascii() and said.isdecimal() and len(said) <= len(str(MAX_LIMIT)) else 0
        if not 1 <= number <= MAX_LIMIT:
            raise QueryError("limit", f"must be an integer between 1 and {MAX_LIMIT}")
        wanted = replace(wanted, limit=number)
    return wanted


def _time(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) >= INT64:
        raise QueryError(name, "must be milliseconds since the epoch")
    return int(text)


def _score(name: str, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise QueryError(name, "must be a number between 0 and 1")
    return score
