"""Whether a candidate may go live: every rule with its number and its bound, and a verdict that can say no."""

from distill.evaluate import agreement_interval
from distill.gate_rules import further_checks
from distill.intervals import paired_difference
from distill.settings import DistillSettings
from distill.verdict import Check, Measured, Verdict
from router.calibration import Thresholds
from serving.parity import ParityReport

__all__ = ("Check", "Measured", "Verdict", "judge")


def judge(settings: DistillSettings, candidate: Measured, champion: Measured | None, parity: ParityReport) -> Verdict:
    """Apply the gate. ``champion`` was measured on the same requests; None where none is live."""
    share, low, _ = agreement_interval(candidate.agreed)
    thresholds = candidate.thresholds
    checks = [
        Check(
            "parity",
            parity.within,
            parity.max_abs_diff,
            settings.parity_tolerance,
            f"served log-probabilities differ from the trained model's by at most {parity.max_abs_diff:.4f} nats "
            f"(allowed {settings.parity_tolerance})",
        ),
        Check(
            "agreement_floor",
            low >= settings.min_agreement,
            low,
            settings.min_agreement,
            f"the student alone agrees with the teacher on {share:.1%} of {len(candidate.rows)} held-out requests, "
            f"at least {low:.1%} with 95% confidence (floor {settings.min_agreement:.0%})",
        ),
        Check(
            "guarantee",
            thresholds.feasible,
            thresholds.agreement_lower_bound,
            thresholds.agreement_target,
            _guarantee(thresholds),
        ),
    ]
    if champion is not None:
        checks += _against(settings, candidate, champion)
    return Verdict(checks + further_checks(settings.gate, candidate, champion))


def _against(settings: DistillSettings, candidate: Measured, champion: Measured) -> list[Check]:
    mean, lower = paired_difference(candidate.agreed, champion.agreed)
    share, least = candidate.thresholds.student_share, champion.thresholds.student_share - settings.margin
    return [
        Check(
            "not_worse_than_champion",
            lower >= -settings.margin,
            lower,
            -settings.margin,
            f"agreement against the champion on the same requests: {mean:+.1%}, at least {lower:+.1%} with 95% "
            f"confidence (allowed {-settings.margin:+.1%})",
        ),
        Check(
            "takes_no_less_traffic",
            share >= least,
            share,
            least,
            f"the student answers {share:.1%} of the requests on which the champion, its router trained on them too, "
            f"answers {champion.thresholds.student_share:.1%} (allowed {least:.1%})",
        ),
    ]


def _guarantee(thresholds: Thresholds) -> str:
    if not thresholds.feasible:
        return (
            f"no thresholds keep agreement at {thresholds.agreement_target:.0%} with {1 - thresholds.delta:.0%} "
            f"confidence on {thresholds.n} held-out requests"
        )
    return (
        f"the student answers {thresholds.student_share:.1%} of held-out requests, agreement is at least "
        f"{thresholds.agreement_lower_bound:.1%} with {1 - thresholds.delta:.0%} confidence "
        f"(target {thresholds.agreement_target:.0%})"
    )
