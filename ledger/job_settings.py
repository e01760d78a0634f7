"""What one job may do otherwise than the settings say: the few things that are safe to take from an API call."""

from typing import Annotated, Literal

import msgspec

from ledger.request_filters import DatedFilters

__all__ = ("JobSettings",)


class JobSettings(DatedFilters, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of ``POST /admin/v1/jobs``, and a job's ``settings``. What is not named is as in ``[distill]``.

    The filters narrow those of ``[distill.data]``, and never widen them.
    """

    note: Annotated[str, msgspec.Meta(max_length=2_000)] = ""
    """For people."""
    max_examples: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None = None
    """Take so many examples at most. It cannot raise ``distill.max_examples``."""
    start_from: Literal["champion", "base"] | None = None
    """Train the live release on, or ``student.weights`` anew."""

    def __post_init__(self) -> None:
        """Refuse a time or a score that is none, as `ValueError`."""
        super().__post_init__()
        if self.min_feedback is not None and not 0.0 <= self.min_feedback <= 1.0:
            raise ValueError(f"min_feedback = {self.min_feedback}: must be from 0 to 1")
