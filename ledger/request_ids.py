"""Ids of requests: the time, then chance, so that what is new lies together at the end of every index of them."""

import hashlib
import os
import re
import secrets
from typing import Final

__all__ = ("id_named", "new_id", "time_of")

TIME_DIGITS: Final = 11
"""Milliseconds until the year 2527."""
CHANCE_DIGITS: Final = 13
IDS_DRAWN: Final = 256
ID: Final = re.compile(rf"req_([0-9a-f]{{{TIME_DIGITS}}})[0-9a-f]{{{CHANCE_DIGITS}}}")

_drawn: list[str] = []
# a process that is forked draws its own
os.register_at_fork(after_in_child=_drawn.clear)


def new_id(now: int) -> str:
    """An id of a request of a time (ms since the epoch): 24 hex digits, of which 13 (52 bits) are drawn from the
    system, for many requests at once.
    """
    if not _drawn:
        digits = secrets.token_hex(CHANCE_DIGITS * IDS_DRAWN // 2)
        _drawn.extend(digits[at : at + CHANCE_DIGITS] for at in range(0, len(digits), CHANCE_DIGITS))
    return _id(now, _drawn.pop())


def id_named(at: int, name: str) -> str:
    """An id of that form for a request of a time that has a name: the same whoever asks, and however often."""
    return _id(at, hashlib.sha256(name.encode()).hexdigest()[:CHANCE_DIGITS])


def time_of(request_id: str) -> int | None:
    """When the request of this id began (ms since the epoch). None where it is no id of this form."""
    found = ID.fullmatch(request_id)
    return int(found[1], 16) if found else None


def _id(at: int, rest: str) -> str:
    return f"req_{at:0{TIME_DIGITS}x}{rest}"
