"""What one job may do otherwise than the settings say: the few things that are safe to take from an API call."""

from typing import Annotated, Literal

import msgspec

__all__ = ("JobSettings",)


class JobSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of ``POST /admin/v1/jobs``, and a job's ``settings``. What is not named is as in ``[distill]``."""

    note: Annotated[str, msgspec.Meta(max_length=2_000)] = ""
    """For people."""
    max_examples: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None = None
    """Take so many examples at most. It cannot raise ``distill.max_examples``."""
    start_from: Literal["champion", "base"] | None = None
    """Train the live release on, or ``student.weights`` anew."""
