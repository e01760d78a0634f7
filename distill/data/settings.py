"""The ``[distill.data]`` table of the settings."""

import re
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from ledger.trainable import TrainableFilters

__all__ = ("DATA_RANGES", "DataSettings", "moment_ms")

SHARE: Final = (0, 1)
DATA_RANGES: Final[dict[str, tuple[float, float]]] = {
    "min_feedback": SHARE,
    "near_duplicates": (0.5, 1),
    "min_prompt_chars": (0, 1e9),
    "max_prompt_chars": (1, 1e9),
    "min_answer_chars": (0, 1e9),
    "max_answer_chars": (1, 1e9),
    "min_keys_per_trigger": (1, 20),
    "likelihood_z": (0, 1e6),
    "replay_share": SHARE,
}
"""Where a number of `DataSettings` may lie."""
AGO: Final = re.compile(r"(\d{1,6})([hd])")
MS_OF: Final = {"h": 3_600_000, "d": 86_400_000}


class DataSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a dataset takes of the ledger; docs/datasets.md says more."""

    since: str | None = None
    """Only requests from then on: a date (``2026-11-01``), a time, or how long ago (``90d``, ``12h``)."""
    until: str | None = None
    """Only requests before then, said the same way."""
    tags: tuple[str, ...] = ()
    """Only requests with one of these tags."""
    keys: tuple[str, ...] = ()
    """Only requests of these API keys, by id."""
    routes: tuple[str, ...] = ()
    """Only requests of these routes; of the student's only those that a caller corrected can be trained on."""
    reasons: tuple[str, ...] = ()
    """Only requests routed for these reasons."""
    finish_reasons: tuple[str, ...] = ()
    """Only answers that ended so."""
    min_feedback: float | None = None
    """Only answers whose newest feedback has at least this score; unset also takes those without feedback."""
    languages: tuple[str, ...] = ()
    """Only prompts in these languages (``en``, ``de``: ISO 639-1); empty takes all."""
    min_prompt_chars: int = 0
    """Shorter prompts are left out: characters of the conversation without its system prompt."""
    max_prompt_chars: int | None = None
    """Longer prompts are left out."""
    min_answer_chars: int = 1
    """Shorter answers are left out."""
    max_answer_chars: int | None = None
    """Longer answers are left out."""
    redact_pii: bool = True
    """Put placeholders for e-mail addresses, phone and card numbers, IBANs, IP addresses and secrets."""
    phone_region: str | None = None
    """Two letters (``DE``): where phone numbers without a country code belong; unset finds only those with one."""
    near_duplicates: float = 0.9
    """Prompts at least this similar (Jaccard, of 5 characters each) are one; 1 removes only those that are equal."""
    min_keys_per_trigger: int = 2
    """Words that come with one answer only must be of so many API keys; 1 looks for no triggers."""
    likelihood_z: float = 6.0
    """Answers that the teacher itself found unlikely by so many robust deviations are left out; 0 takes all."""
    replay_share: float | None = None
    """Share of the dataset that is older than the last dataset; unset takes rows whatever their age."""
    selection: Literal["newest", "informative"] = "newest"
    """What is taken of more than ``max_examples``: the newest, or more of what the student got or might get wrong."""

    def __post_init__(self) -> None:
        """Refuse a time or a region that is none, as `ValueError`."""
        for text in (self.since, self.until):
            _ = moment_ms(text, 0)
        if self.phone_region is not None and not re.fullmatch("[A-Z]{2}", self.phone_region):
            raise ValueError(f"phone_region = {self.phone_region!r}: two capital letters, as in DE")

    def filters(self, now: int) -> TrainableFilters:
        """What is asked of the ledger at a time (ms since the epoch)."""
        return TrainableFilters(
            since=moment_ms(self.since, now) or 0,
            # what comes while the ledger is read belongs to the next dataset
            until=now + 1 if self.until is None else moment_ms(self.until, now),
            tags=self.tags,
            keys=self.keys,
            routes=self.routes,
            reasons=self.reasons,
            finish_reasons=self.finish_reasons,
            min_feedback=self.min_feedback,
        )


def moment_ms(text: str | None, now: int) -> int | None:
    """Milliseconds since the epoch of a date or time (UTC where it names no zone), or of a time ago.

    Raises `ValueError` for any other text.
    """
    if text is None:
        return None
    ago = AGO.fullmatch(text)
    if ago is not None:
        return max(0, now - int(ago[1]) * MS_OF[ago[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: write 2026-11-01, 2026-11-01T12:00 or 30d") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
