"""The ``[distill.data]`` table of the settings."""

import re
from typing import Final, Literal

from ledger.request_filters import DatedFilters

__all__ = ("DATA_RANGES", "DataSettings")

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


class DataSettings(DatedFilters, frozen=True, forbid_unknown_fields=True):
    """What a dataset takes of the ledger; docs/datasets.md says more."""

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
        super().__post_init__()
        if self.phone_region is not None and not re.fullmatch("[A-Z]{2}", self.phone_region):
            raise ValueError(f"phone_region = {self.phone_region!r}: two capital letters, as in DE")
