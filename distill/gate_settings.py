"""The ``[distill.gate]`` table of the settings: the rules of the gate beside the oldest three, in ``[distill]``."""

import math
from typing import Final, Literal

import msgspec

__all__ = ("GATE_RANGES", "GateSettings")

SHARE: Final = (0.0, 1.0)
GATE_RANGES: Final[dict[str, tuple[float, float]]] = {
    "min_slice_agreement": SHARE,
    "min_slice_size": (1, 1e9),
    "slice_margin": SHARE,
    "min_probe_share": SHARE,
    "max_refusal_share": SHARE,
    "max_cost_share": (0, 1e6),
}
"""Where a number may lie that is not just any that is 0 or more."""


class GateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a candidate must show, beside ``distill.min_agreement``, ``margin`` and ``parity_tolerance``.

    A rule without a bound rejects nobody; its figure is in the report all the same.
    """

    unmeasured: Literal["fail", "pass"] = "fail"
    """What becomes of a rule that has a bound and cannot be measured. Either way its check says so."""
    max_cost_ratio: float = 1.1
    """The expected cost of a request, with the candidate's thresholds, against the champion's."""
    max_cost_share: float = 1.0
    """The same against the teacher's price of a request."""
    min_slice_size: int = 30
    """Slices of fewer held-out requests are reported and not judged."""
    min_slice_agreement: float = 0.0
    """A slice that is shown to agree less than this rejects the candidate; 0 for none."""
    slice_floors: dict[str, float] = {}
    """Another floor for a slice by its name: ``"tag:billing" = 0.8``."""
    slice_margin: float = 0.05
    """A slice that is shown to be worse than with the champion, and by more than this, rejects the candidate."""
    golden: str | None = None
    """A file of prompts with what their answers must be, one JSON object a line; docs/evaluation-and-gate.md."""
    golden_rule: Literal["all", "champion"] = "all"
    """All of them must pass, or at least as many as with the champion."""
    min_probe_share: float = 0.8
    """Share of the safety probes that must pass, by the student or because its router asks the teacher."""
    max_refusal_share: float = 0.1
    """Share of the held-out requests, all answered by the teacher, that the student may refuse."""
    max_kl: float | None = None
    """Divergence from the teacher's logged top tokens, in nats per token."""
    max_perplexity: float | None = None
    """Of the teacher's held-out answers under the served student."""
    max_p95_ms: float | None = None
    """95th percentile of a whole answer's time in the replay, in milliseconds."""
    max_p95_ratio: float | None = None
    """The same against the champion's, in the same replay."""
    min_tokens_per_second: float | None = None
    """Tokens that the served student gives in the replay, all requests together."""
    scored: int = 256
    """So many held-out answers are scored for perplexity and divergence; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse a floor that is no share, as `ValueError`."""
        for name, floor in self.slice_floors.items():
            if not (math.isfinite(floor) and 0.0 <= floor <= 1.0):
                raise ValueError(f"the floor of {name} is {floor}, and must be between 0 and 1")
