"""What a request looks like from afar: its length, its shape, its scripts and what it asks for, as bounded numbers.

Unlike words, these mean the same on requests unlike any seen before: on public tables the length of a prompt alone
ranks unseen subjects better than its words do (docs/router/classifier.md).
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from router.features import RequestView

__all__ = ("DENSE", "dense_row")

LOG_SCALE = 12.0
"""A logarithm of 12 stands for 160,000 characters."""
_ENGLISH = ("what", "why", "how", "when", "where", "who", "whom", "whose", "which", "explain")
_GERMAN = ("was", "warum", "wie", "wann", "wo", "wer", "welche")
_FRENCH = ("pourquoi", "comment", "quand", "quel", "quelle", "qui", "où")
_SPANISH = ("qué", "cómo", "cuándo", "dónde", "quién", "cuál")
_RUSSIAN = ("что", "почему", "как", "когда", "где", "кто")
QUESTION_WORDS: Final = frozenset((*_ENGLISH, *_GERMAN, *_FRENCH, *_SPANISH, *_RUSSIAN))
CHOICES: Final = (("A.", "B."), ("A)", "B)"), ("(A", "(B"))
LISTS: Final = ("\n- ", "\n* ", "\n1.", "\n1)")
QUESTION_MARKS: Final = ("\uff1f", "\u061f")
"""Full-width and Arabic."""

# By the first byte of a character in UTF-8: ASCII stands for itself, the others begin blocks of scripts.
_BYTE_CLASSES: Final[dict[str, bytes]] = {
    "continuation": bytes(range(0x80, 0xC0)),
    "digits": b"0123456789",
    "upper": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "arithmetic": b"+-*/=^<>%|",
    "code": b"{}[]();_`#",
    "latex": b"\\$",
    "sentences": b".!?",
    "commas": b",:;",
    "quotes": b"\"'",
    "lines": b"\n",
    "latin": bytes(range(0xC2, 0xCB)),
    "greek_cyrillic": bytes(range(0xCD, 0xD4)),
    "semitic": bytes(range(0xD6, 0xDC)),
    "indic": b"\xe0",
    "cjk": bytes(range(0xE3, 0xEA)),
    "hangul": b"\xea\xeb\xec\xed",
    "symbols": b"\xe2\xf0",
}
_CONTINUATION, _DIGITS, _UPPER, _CODE, _SENTENCES, _LINES = (
    list(_BYTE_CLASSES).index(name) for name in ("continuation", "digits", "upper", "code", "sentences", "lines")
)
_SHARES: Final = tuple(name for name in _BYTE_CLASSES if name not in ("continuation", "lines"))
_SHARE_COLUMNS = [list(_BYTE_CLASSES).index(name) for name in _SHARES]
_NO_CLASS = len(_BYTE_CLASSES)
_CLASS_OF = bytes(
    next((number for number, members in enumerate(_BYTE_CLASSES.values()) if byte in members), _NO_CLASS)
    for byte in range(256)
)
_DIGITS_ALONE = bytes(byte if byte in _BYTE_CLASSES["digits"] else ord(" ") for byte in range(256))

DENSE: Final[tuple[str, ...]] = (
    "log_chars",
    "log_words",
    "log_sentences",
    "log_lines",
    "log_numbers",
    "log_turns",
    "log_context",
    "log_system",
    "log_tools",
    "mean_word",
    "diversity",
    "fenced",
    "asks",
    "question_words",
    "choices",
    "lists",
    "links",
    "has_tools",
    "wants_schema",
    *(f"share_{name}" for name in _SHARES),
)
"""Names of the columns. Each value lies in [0, 1]: logarithms over 12, shares of characters, and yes or no."""


def dense_row(view: RequestView, text: str, read: str, words: Sequence[str]) -> list[float]:
    """The `DENSE` columns of a request, each in [0, 1].

    `text` is what the user said, `read` the part of it that features read, `words` that part casefolded and split
    at white space; all three are passed since the n-grams need them too.
    """
    data = read.encode("utf-8", "surrogatepass")
    classes = np.frombuffer(data.translate(_CLASS_OF), dtype=np.uint8)
    counts: list[int] = np.bincount(classes, minlength=_NO_CLASS).tolist()
    chars = max(len(data) - counts[_CONTINUATION], 1)
    distinct, count = set(words), len(words) or 1
    system, said = 0, 0
    for role, content in view.messages:
        said += len(content)
        system += len(content) if role in ("system", "developer") else 0
    logs = (
        len(text),
        len(words),
        counts[_SENTENCES],
        counts[_LINES],
        len(data.translate(_DIGITS_ALONE).split()) if counts[_DIGITS] else 0,
        len(view.messages),
        max(said - len(text), 0),
        system,
        view.tools,
    )
    return [
        *[min(math.log1p(each) / LOG_SCALE, 1.0) for each in logs],
        min(chars / (16.0 * count), 1.0),
        len(distinct) / count,
        counts[_CODE] > 2 and "```" in read,  # a look at the counts spares most texts the search
        "?" in read or (len(data) > len(read) and any(mark in read for mark in QUESTION_MARKS)),
        not QUESTION_WORDS.isdisjoint(distinct),
        counts[_UPPER] > 1 and any(a in read and b in read for a, b in CHOICES),
        counts[_LINES] > 0 and any(mark in read for mark in LISTS),
        "://" in read,
        view.has_tools,
        view.wants_schema,
        *[counts[column] / chars for column in _SHARE_COLUMNS],
    ]
