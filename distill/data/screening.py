"""What of one row alone keeps it out of a dataset."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from distill.data.languages import LanguageFilter
from distill.data.rows import Messages, Row, conversation_text, unit
from distill.data.settings import DataSettings
from ledger.feedback import NEGATIVE
from router.features import RequestView

__all__ = ("Screen", "not_sampled")

THINNED: Final = ("hard", "low_confidence", "student_down", "explore")
"""Logged whenever they happen; of the confident requests only the explored ones are, by their propensity."""
NOT_SAMPLED: Final = ("pinned", "unsupported")
"""The router decides nothing about these."""
REFUSALS: Final = ("i'm sorry, but i can", "i am sorry, but i can", "i can't help with", "i cannot help with")


@dataclass(frozen=True)
class Screen:
    """Says why a row is not taken. ``renders`` is whether the student's chat template takes the messages."""

    settings: DataSettings
    renders: Callable[[Messages], bool]

    @cached_property
    def _languages(self) -> LanguageFilter:
        return LanguageFilter(self.settings.languages)

    def refused(self, row: Row) -> str | None:
        """The reason, or None for a row that is taken."""
        text = conversation_text(row.messages)
        return next((why for why, speaks_against in self._checks.items() if speaks_against(row, text)), None)

    @cached_property
    def _checks(self) -> dict[str, Callable[[Row, str], bool]]:
        """By what speaks against a row and its conversation's text, the first one counts."""
        chosen = self.settings
        prompt = (chosen.min_prompt_chars, chosen.max_prompt_chars)
        answer = (chosen.min_answer_chars, chosen.max_answer_chars)
        return {
            "empty_answer": lambda row, _: not row.answer.strip(),
            "negative_feedback": lambda row, _: not row.corrected and row.score is not None and row.score < NEGATIVE,
            "refusal": lambda row, _: not row.corrected and _is_refusal(row.answer),
            "not_plain_text": lambda row, _: not _is_plain_text(row),
            "prompt_length": lambda _, text: not _is_within(len(text), *prompt),
            "answer_length": lambda row, _: not _is_within(len(row.answer.strip()), *answer),
            "language": lambda _, text: not self._languages.takes(text),
            "template": lambda row, _: not self.renders(row.messages),
        }


def _is_refusal(answer: str) -> bool:
    return answer.strip().lower().replace("\u2019", "'").startswith(REFUSALS)


def _is_plain_text(row: Row) -> bool:
    view = RequestView.from_body(row.parameters | {"messages": row.messages})
    return not (view.has_tools or view.has_images or view.unserved) and view.n == 1


def not_sampled(row: Row, least_propensity: float) -> str | None:
    """Why a row that belongs to the held-out side is not in its uniform sample of the traffic, or None.

    The held-out part is a sample of the traffic that the router decides on: where a release was live, confident
    requests are in the ledger only where they were explored, each with a probability p of its own (its propensity).
    With p_min the least one in the ledger, an explored request is kept with p_min / p and an escalated one with
    p_min, so that each had the chance p_min.
    """
    if row.reason in NOT_SAMPLED or not row.answered:
        return "not_sampled"
    # by the row's own id: a request that comes back has a new chance each time, as with exploration
    thinned = row.reason in THINNED and unit(f"thin:{row.id}") * row.propensity >= least_propensity
    return "thinned_held_out" if thinned else None


def _is_within(length: int, least: int, most: int | None) -> bool:
    return least <= length and (most is None or length <= most)
