"""Answers as pieces of text to be shown: how sure the student was of each token, and what differs between two."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import msgspec

from ledger.records import Content

__all__ = ("BANDS", "Compared", "Message", "Piece", "compared", "least_sure", "messages", "tokens")

BANDS: Final = (
    (0.9, "sure", "90 % or more"),
    (0.6, "fair", "60 to 90 %"),
    (0.3, "unsure", "30 to 60 %"),
    (0.0, "guess", "below 30 %"),
)
"""Probabilities of a token, from the least one on: a class of the style sheet, and its words in the legend."""
LEAST_SURE: Final = 10
WORDS: Final = re.compile(r"\s+|[^\s]+")
MAX_WORDS: Final = 4_000
"""Longer answers are not compared word by word: the time for it grows with the square."""
MAX_SHOWN: Final = 2_000
"""Characters of what is not text in a message, such as a picture's bytes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text. ``kind`` is a band, or of a comparison ``same``, ``gone`` or ``new``."""

    kind: str
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: who speaks, and the parts of what is said, those that are no text as JSON."""

    role: str
    parts: list[str]


@dataclass(frozen=True, slots=True)
class Compared:
    """Two answers, and how the second differs from the first; ``pieces`` is None where they are too long for that."""

    first: str
    second: str
    pieces: list[Piece] | None

    @property
    def is_same(self) -> bool:
        """Whether they agree to the letter."""
        return self.first == self.second


def messages(said: Sequence[Mapping[str, Any]]) -> list[Message]:
    """A request's messages."""
    return [Message(str(each.get("role", "?")), list(_parts(each))) for each in said]


def tokens(content: Content) -> list[Piece]:
    """The student's answer by its tokens; those it was sure of are run together. Empty where they are not kept."""
    found: list[Piece] = []
    banded = ((*_band(thousandths), token) for token, thousandths in content.student_tokens or ())
    for (kind, note), run in groupby(banded, lambda each: each[:2]):
        texts = [token for *_, token in run]
        found += [Piece(kind, "".join(texts))] if kind == BANDS[0][1] else [Piece(kind, text, note) for text in texts]
    return found


def least_sure(content: Content) -> list[tuple[str, float]]:
    """The tokens that the student was least sure of, each with its probability, the least one first."""
    ranked = sorted(content.student_tokens or (), key=lambda each: each[1])
    return [(token, math.exp(min(thousandths, 0) / 1_000)) for token, thousandths in ranked[:LEAST_SURE]]


def compared(first: str, second: str) -> Compared:
    """Word by word, blanks being words too."""
    a, b = WORDS.findall(first), WORDS.findall(second)
    if max(len(a), len(b)) > MAX_WORDS:
        return Compared(first, second, None)
    found: list[Piece] = []
    for kind, a_from, a_to, b_from, b_to in difflib.SequenceMatcher(None, a, b).get_opcodes():
        gone, new = "".join(a[a_from:a_to]), "".join(b[b_from:b_to])
        if kind == "equal":
            found.append(Piece("same", gone))
            continue
        found += [Piece(name, text) for name, text in (("gone", gone), ("new", new)) if text]
    return Compared(first, second, found)


def _band(thousandths: int) -> tuple[str, str]:
    p = math.exp(min(thousandths, 0) / 1_000)
    kind = next(kind for least, kind, _ in BANDS if p >= least)
    return kind, "" if kind == BANDS[0][1] else f"{p:.0%}"


def _parts(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content")
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text
        elif part is not None:
            yield _as_json(part)
    if message.get("tool_calls"):
        yield _as_json(message["tool_calls"])


def _as_json(value: Any) -> str:
    text = msgspec.json.format(msgspec.json.encode(value)).decode()
    cut = len(text) - MAX_SHOWN
    return text if cut <= 0 else f"{text[:MAX_SHOWN]}\n… and {cut:,} characters more"
