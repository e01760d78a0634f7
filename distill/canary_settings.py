"""The ``[distill.canary]`` table of the settings: how a release is tried before it takes all the traffic."""

from typing import Final, Literal

import msgspec

from ledger.canaries import Trial

__all__ = ("CANARY_RANGES", "CanarySettings")

SHARE: Final = (0.0, 1.0)
CANARY_RANGES: Final[dict[str, tuple[float, float]]] = {
    "share": (0.001, 1.0),
    "min_requests": (1, 1e9),
    "max_hours": (0.01, 10_000),
    "agreement_margin": SHARE,
    "error_margin": SHARE,
    "escalation_margin": SHARE,
    "latency_ratio": (1, 1_000),
    "confidence": (0.5, 0.9999),
}
"""Where a number may lie."""


class CanarySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a release that passed its gate must show on live traffic, and what becomes of one that does not."""

    mode: Literal["off", "canary", "shadow"] = "canary"
    """``canary``: it answers a share of the conversations. ``shadow``: it answers beside the champion, and nobody
    sees it. ``off``: it goes live at once. The first release goes live at once in any case."""
    share: float = 0.1
    """Of the conversations; one conversation never has two releases."""
    min_requests: int = 500
    """It is promoted after so many of its own requests at the earliest. It is taken back as soon as it is shown to do
    worse."""
    max_hours: float = 72.0
    """After so long without a decision, ``undecided`` holds."""
    undecided: Literal["rollback", "promote"] = "rollback"
    """What becomes of a release that was shown neither to do worse nor to hold its bounds."""
    agreement_margin: float = 0.03
    """The student's own answers may agree with the teacher's by this much less than the champion's."""
    error_margin: float = 0.01
    """So many more requests may fail, or be answered by the teacher since the student failed."""
    escalation_margin: float = 0.05
    """So many more requests may go to the teacher."""
    latency_ratio: float = 1.5
    """The 95th percentile of the student's answers may take so many times as long."""
    confidence: float = 0.95
    """Of each decision: a release that holds its bounds is taken back, and one that does not is promoted, with one
    minus this probability at most."""

    @property
    def trial(self) -> Trial | None:
        """How a release is tried; None where it is not."""
        return None if self.mode == "off" else Trial(self.mode, self.share)
