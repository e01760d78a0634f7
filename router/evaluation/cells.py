"""What a cell of a table means: a prompt, or a score."""

import ast
import json
import math
from collections.abc import Sequence
from typing import Any, Final, cast

from router.features import RequestView

__all__ = ("number", "prompt_text")

WORDS: Final = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "correct": 1.0, "incorrect": 0.0}
LONGEST_LIST = 1_000_000
"""Characters of a list written out that is read as one."""


def number(value: Any) -> float:
    """The number in a cell, where true is 1 and false 0; NaN for none, for an empty cell and for other text."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word in WORDS:
            return WORDS[word]
        try:
            value = float(word)
        except ValueError:
            return math.nan
    if not isinstance(value, int | float):
        return math.nan
    found = float(value)
    return found if math.isfinite(found) else math.nan


def prompt_text(value: Any) -> str:
    """The user's text in a cell: plain, a list of turns, or chat messages, as such or written out; "" for none."""
    if isinstance(value, str):
        value = _unwritten(value)
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        return ""
    return _joined(cast("list[Any]", value))


def _joined(turns: Sequence[Any]) -> str:
    if turns and all(isinstance(turn, str) for turn in turns):
        return "\n".join(turns)
    return RequestView.from_body({"messages": turns}).text()


def _unwritten(text: str) -> Any:
    """The list that a text writes out as JSON or as Python, else the text."""
    inner = text.strip()
    if not (inner.startswith("[") and inner.endswith("]")) or len(inner) > LONGEST_LIST:
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(inner)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        # A text may be in brackets for reasons of its own.
        return found if isinstance(found, list) and _joined(cast("list[Any]", found)) else text
    return text
