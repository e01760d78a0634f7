"""The final number of an answer, by its value: thousands separators, percent, currency, fractions, LaTeX's boxes."""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

__all__ = ("Number", "final_number")

CURRENCIES: Final = "".join(chr(code) for code in range(0x24, 0x20D0) if unicodedata.category(chr(code)) == "Sc")
SIGN: Final = "(?<![\\w)])[-\u2212]"
# digits are bounded: a number of a million of them is no answer, and costs quadratic time to read
DIGITS: Final = (
    r"(?:\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3}(?!\d)){1,10}(?:[.,]\d{1,40})?(?![.,]?\d)"
    r"|\.?\d{1,40}(?:[.,]\d{1,40}){0,14})"
)
NUMBER: Final = re.compile(
    rf"(?P<sign>{SIGN}\s?(?=[{CURRENCIES}.\d]))?(?P<before>[{CURRENCIES}])?\s?(?P<late_sign>{SIGN})?"
    rf"(?<![\w.,])(?<!\w[-\u2212/:])(?P<digits>{DIGITS})(?:e(?P<power>[-+]?\d{{1,2}})\b)?(?!e[-+]?\d)"
    rf"(?:\s(?P<top>\d{{1,15}})(?=[/\u2044]\d))?(?:[/\u2044](?P<under>\d{{1,15}}))?(?![-\u2212/:\u2044.,]?\d)"
    rf"\s?(?:(?P<percent>%|\u066a|per ?cent\b)|(?P<after>[{CURRENCIES}]))?",
    re.IGNORECASE,
)
TAIL: Final = 400
"""Characters at the end of a text among which its final number is looked for."""
OTHER_DIGITS: Final = re.compile(r"(?<!\w)\d")
"""Digits that begin a word."""
BOXED: Final = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\}){0,400})\}")
LATEX_FRACTION: Final = re.compile(r"\\[dt]?frac\s*\{\s*(\d{1,15})\s*\}\s*\{\s*(\d{1,15})\s*\}")
LATEX_DRESS: Final = re.compile(r"\\(?=[%$])|\\[,;!]|\\text\s*\{[^{}]*\}|\{,\}")
GROUPED: Final = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?|\d{1,3}(\.\d{3}){2,}|\d{1,3}(\.\d{3})+,\d+")
DECIMAL: Final = re.compile(r"\d*([.,]?\d+)")
VULGAR: Final = re.compile("[\u00bc-\u00be\u2150-\u215e]")


@dataclass(frozen=True, slots=True)
class Number:
    """A number's exact value, and what stood beside it."""

    value: Fraction
    percent: bool
    currency: str
    boxed: bool
    last: bool
    """Nothing but punctuation comes after it."""
    whole: bool
    """Nothing but punctuation stands beside it."""


def final_number(text: str) -> Number | None:
    """The number in the last ``\\boxed{}``, else the last number of the text; None where there is none, or where a
    date, a version, a range or the like comes after it.

    A comma before two digits, or one, is a decimal comma; ``1,234`` is a thousand and more, ``1.234`` is not.
    """
    at = text.rfind("\\boxed")
    box = BOXED.match(text, at) if at >= 0 else None
    return (_last(box[1], True) if box else None) or _last(text, False)


def _last(text: str, boxed: bool) -> Number | None:
    is_cut = len(text) > TAIL
    if is_cut:
        # not within a number
        text = text[-TAIL:].partition(" ")[2]
    # a half that stands behind a digit must not become a part of that number
    text = VULGAR.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]), text)
    text = LATEX_DRESS.sub("", LATEX_FRACTION.sub(r"\1/\2", text))
    matches = list(NUMBER.finditer(text))
    value = _value(matches[-1]) if matches else None
    # a date, a version or a range may come after it: then the answer is not that number
    if value is None or OTHER_DIGITS.search(text, matches[-1].end()):
        return None
    match = matches[-1]
    last = not any(map(str.isalnum, text[match.end() :]))
    whole = last and not is_cut and not any(map(str.isalnum, text[: match.start()]))
    return Number(value, match["percent"] is not None, match["before"] or match["after"] or "", boxed, last, whole)


def _value(match: re.Match[str]) -> Fraction | None:
    """The exact value; None for what only looks like a number, as a version does, or a division by zero."""
    number = _plain(match["digits"])
    if number is None:
        return None
    if match["power"]:
        number *= Fraction(10) ** int(match["power"])
    if match["under"]:
        under = int(match["under"])
        if not under:
            return None
        number = number + Fraction(int(match["top"]), under) if match["top"] else number / under
    return -number if match["sign"] or match["late_sign"] else number


def _plain(digits: str) -> Fraction | None:
    digits = "".join(digits.split())
    if GROUPED.fullmatch(digits):
        decimal = "," if digits.rfind(",") > digits.rfind(".") and "." in digits else "."
        # grouped by points alone: the last one is no decimal point either
        decimal = "" if digits.count(".") > 1 and "," not in digits else decimal
        whole, _, rest = digits.rpartition(decimal) if decimal and decimal in digits else (digits, "", "")
        return Fraction(re.sub("[.,]", "", whole) + (f".{rest}" if rest else ""))
    return Fraction(digits.replace(",", ".")) if DECIMAL.fullmatch(digits) else None
