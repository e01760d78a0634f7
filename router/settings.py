"""The ``[router]`` table of the settings."""

import msgspec

__all__ = ("RouterSettings",)


class RouterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much quality is asked for, with which confidence, and how the router may learn."""

    enabled: bool = True
    """False sends every ``auto`` request to the teacher."""
    agreement_target: float = 0.95
    """Share of answers that are to agree with the teacher's; a teacher's answer agrees with itself."""
    confidence: float = 0.95
    """The target is held with this confidence on held-out requests."""
    explore_share: float = 0.02
    """Share of confident requests that the teacher answers too, in the background."""
    hold_tokens: int = 8
    """Tokens of the student's stream that are held back while its confidence is read."""
