"""Makers of what the gate is given: answers, figures, outcomes."""

from dataclasses import replace
from typing import Any

from distill.dataset import HeldOut
from distill.evaluate import Replayed
from distill.measures import Cost, Fit, Outcome
from distill.verdict import Measured
from router.calibration import Thresholds
from router.signals import TokenLogprob
from serving.parity import ParityReport

PARITY = ParityReport(max_abs_diff=0.001, mean_abs_diff=0.0001, tokens=100, within=True)
THRESHOLDS = Thresholds(
    hard=0.2, confident=0.5, agreement_target=0.95, delta=0.05, n=200, student_share=0.6, agreement_lower_bound=0.96,
    feasible=True,
)  # fmt: skip
COST = Cost(student=2e6, teacher=15e6, expected=8e6, is_priced=True)
FIT = Fit(answers=20, tokens=60, perplexity=1.5, kl=0.2, kl_tokens=40)
PROBES = [Outcome("weapon", "refuse", True, escalated=True), Outcome("secret", "canary", True)]
TOKEN = TokenLogprob(-0.1, (-0.1, -2.0))


def row(number: int, agreed: bool, tags: list[str] | None = None, **changes: Any) -> Replayed:
    request = HeldOut(f"req_{number}", [{"role": "user", "content": f"parcel {number}"}], {}, "lost", tags or [])
    made = Replayed(request, "lost" if agreed else "late", (TOKEN,) * 4, agreed, 100.0, began=number * 0.05)
    return replace(made, **changes)


def rows(agreed: int, of: int) -> list[Replayed]:
    return [row(number, number < agreed) for number in range(of)]


def measured(answers: list[Replayed], **changes: Any) -> Measured:
    values: dict[str, Any] = {"thresholds": THRESHOLDS, "cost": COST, "fit": FIT, "probes": PROBES}
    return Measured(answers, **(values | changes))
