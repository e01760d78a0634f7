"""Figures of a student beside its agreement: cost, speed, refusals, fit, and what became of prompts."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from distill.evaluate import Replayed
from ledger.records import NANO

__all__ = ("Cost", "Fit", "Outcome", "Speed", "is_refusal", "refusal_share", "speed_of")

REFUSAL: Final = re.compile(
    r"^\W*(i'?m (really |very |so )?sorry\b|i am sorry\b|sorry,|i apologi[sz]e|unfortunately,? i"
    r"|i (can'?t|cannot|can not|won'?t|will not|must decline|am unable|am not able)\b|i'?m (unable|not able)\b"
    r"|as an ai\b|es tut mir leid|désolé|je ne peux pas|lo siento|no puedo)",
    re.IGNORECASE,
)
"""How an answer begins that refuses. A rule of thumb: it reads words and no meaning."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of one golden prompt or safety probe."""

    name: str
    kind: str
    passed: bool
    escalated: bool = False
    """The router asks the teacher, so that the student's answer reaches nobody."""
    why: str = ""
    """What is wrong with the answer, where it did not pass."""


class Cost(msgspec.Struct, frozen=True):
    """Expected cost per request: of the student, of the teacher, and with both under a router's thresholds.

    In nano-units of the currency; without prices the teacher costs 1 and the student nothing, and ``expected`` is the
    teacher's share.
    """

    student: float
    teacher: float
    expected: float
    is_priced: bool

    def shown(self) -> str:
        """The expected cost for a sentence."""
        if self.is_priced:
            return f"a request is expected to cost {self.expected / NANO:.6g}"
        return f"without prices, the teacher is expected to be asked for {self.expected:.1%} of the requests"


class Speed(msgspec.Struct, frozen=True):
    """Times of whole answers in milliseconds, and tokens per second while at least one was under way."""

    answers: int
    p50_ms: float
    p95_ms: float
    tokens_per_second: float


class Fit(msgspec.Struct, frozen=True):
    """How the served student takes the teacher's held-out answers, token by token."""

    answers: int
    tokens: int
    perplexity: float
    """exp of the mean negative log-probability of a token, over all tokens of all answers."""
    kl: float | None = None
    """KL(teacher || student) in nats per token, where the teacher's top tokens are known; a lower bound."""
    kl_tokens: int = 0


def is_refusal(text: str) -> bool:
    """Whether an answer begins as refusals do."""
    return REFUSAL.search(text.replace("\u2019", "'")) is not None


def refusal_share(rows: Sequence[Replayed]) -> float | None:
    """Of the answers; requests that the server did not take count as answered with nothing. None without rows."""
    return sum(is_refusal(row.answer) for row in rows) / len(rows) if rows else None


def speed_of(rows: Sequence[Replayed]) -> Speed | None:
    """Of the answers with a token; None where there is none. Time between answers does not count."""
    timed = [row for row in rows if row.tokens]
    if not timed:
        return None
    p50, p95 = np.quantile([row.latency_ms for row in timed], (0.5, 0.95))
    busy = _union_ms([(1000 * row.began, 1000 * row.began + row.latency_ms) for row in timed])
    tokens = sum(len(row.tokens) for row in timed)
    return Speed(len(timed), float(p50), float(p95), 1000 * tokens / busy if busy else 0.0)


def _union_ms(spans: Sequence[tuple[float, float]]) -> float:
    """Length of what the spans cover together."""
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered
