"""The rules of ``[distill.gate]``: cost, slices, golden prompts, safety probes, refusals, fit and speed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from distill.gate_settings import GateSettings
from distill.measures import Outcome, refusal_share
from distill.slices import ALPHA, Slice, below_floors, slices_of, worse_than_champion
from distill.verdict import Check, Measured

__all__ = ("further_checks",)


def further_checks(settings: GateSettings, candidate: Measured, champion: Measured | None) -> list[Check]:
    """Every rule that has a bound and something to be compared with."""
    rules = _Rules(settings, candidate, champion)
    return [check for rule in RULES for check in rule(rules)]


@dataclass(frozen=True, slots=True)
class _Rules:
    """What the rules of ``[distill.gate]`` look at."""

    settings: GateSettings
    candidate: Measured
    champion: Measured | None

    def at_most(self, name: str, value: float | None, bound: float, text: str) -> Check:
        """A value that must not be over its bound; None is what could not be measured, and ``text`` says why."""
        if value is None:
            passed = self.settings.unmeasured == "pass"
            return Check(name, passed, None, bound, f"not measured: {text}{'' if passed else ', which rejects it'}")
        return Check(name, value <= bound, value, bound, text)

    def at_least(self, name: str, value: float | None, bound: float, text: str) -> Check:
        """A value that must not be under its bound."""
        check = self.at_most(name, value, bound, text)
        return check if value is None else msgspec.structs.replace(check, passed=value >= bound)


def _cost(rules: _Rules) -> list[Check]:
    cost, settings = rules.candidate.cost, rules.settings
    if cost is None:
        return []
    checks = [
        rules.at_most(
            "cost_against_teacher",
            cost.expected / cost.teacher,
            settings.max_cost_share,
            f"{cost.shown()}, {cost.expected / cost.teacher:.1%} of the teacher's (allowed "
            f"{settings.max_cost_share:.0%})",
        )
    ]
    before = rules.champion.cost if rules.champion else None
    if before is not None:
        ratio = cost.expected / before.expected if before.expected else float(cost.expected > 0) + 1.0
        text = f"{cost.shown()}, {ratio:.2f} times the champion's (allowed {settings.max_cost_ratio:g})"
        checks.append(rules.at_most("cost_against_champion", ratio, settings.max_cost_ratio, text))
    return checks


def _slices(rules: _Rules) -> list[Check]:
    settings, before = rules.settings, rules.champion
    slices = slices_of(rules.candidate.rows, before.rows if before else None)
    checks: list[Check] = []
    floors = below_floors(settings, slices)
    if floors:
        part, floor, p = min(floors, key=lambda found: found[2])
        text = (
            f"{_named([part for part, _, p in floors if p <= ALPHA])} below its floor; least sure: {part.shown()}, "
        )
        text += f"floor {floor:.0%}, p = {p:.3g} of {len(floors)} slices together (rejects at {ALPHA})"
        checks.append(Check("slice_floors", p > ALPHA, p, ALPHA, text))
    pairs = worse_than_champion(settings, slices)
    if pairs:
        # shown, and large enough to matter: in a large slice a test also finds what is small
        worse = [part for part, p in pairs if p <= ALPHA and _change(part) < -settings.slice_margin]
        part, p = min(pairs, key=lambda found: found[1])
        text = f"{_named(worse)} worse than with the champion by more than {settings.slice_margin:.0%}; most changed "
        text += f"for the worse: {part.shown()}, {_change(part):+.1%}, p = {p:.3g} of {len(pairs)} slices together"
        lowest = min(_change(part) for part, _ in pairs)
        checks.append(Check("slice_regressions", not worse, lowest, -settings.slice_margin, text))
    return checks


def _change(part: Slice) -> float:
    return ((part.better or 0) - (part.worse or 0)) / part.n


def _named(parts: Sequence[Slice]) -> str:
    if not parts:
        return "no slice is shown to be"
    return f"{', '.join(part.shown() for part in parts)} {'is' if len(parts) == 1 else 'are'} shown to be"


def _golden(rules: _Rules) -> list[Check]:
    found, settings = rules.candidate.golden, rules.settings
    if settings.golden is None:
        return []
    if found is None:
        return [rules.at_least("golden", None, 0.0, f"{settings.golden} could not be asked")]
    before = rules.champion.golden if rules.champion else None
    as_champion = settings.golden_rule == "champion" and before is not None
    bound = sum(outcome.passed for outcome in before) if as_champion and before is not None else len(found)
    return [rules.at_least("golden", sum(outcome.passed for outcome in found), bound, _outcomes(found, bound))]


def _probes(rules: _Rules) -> list[Check]:
    found, bound = rules.candidate.probes, rules.settings.min_probe_share
    if not bound:
        return []
    if not found:
        return [rules.at_least("probes", None, bound, "the safety probes were not asked")]
    passed = sum(outcome.passed for outcome in found) / len(found)
    return [rules.at_least("probes", passed, bound, _outcomes(found, bound * len(found)))]


def _outcomes(found: Sequence[Outcome], needed: float) -> str:
    failed = [outcome.name for outcome in found if not outcome.passed]
    escalated = sum(outcome.escalated for outcome in found)
    named = f"; failed: {', '.join(failed[:5])}{' ...' if len(failed) > 5 else ''}" if failed else ""
    kind = "golden prompts" if found and found[0].kind == "golden" else "safety probes"
    return (
        f"{len(found) - len(failed)} of {len(found)} {kind} pass, {escalated} of them by the teacher "
        f"(at least {needed:g}){named}"
    )


def _refusals(rules: _Rules) -> list[Check]:
    bound, share = rules.settings.max_refusal_share, refusal_share(rules.candidate.rows)
    if share is None:
        return []
    text = (
        f"the student refuses {share:.1%} of the held-out requests, which the teacher answered (allowed {bound:.0%})"
    )
    return [rules.at_most("refusals", share, bound, text)]


def _fit(rules: _Rules) -> list[Check]:
    fit, settings, checks = rules.candidate.fit, rules.settings, list[Check]()
    if (bound := settings.max_perplexity) is not None:
        value = fit.perplexity if fit else None
        text = "no held-out answer could be scored"
        if fit:
            text = (
                f"perplexity of the teacher's answers under the student is {fit.perplexity:.2f} (allowed {bound:g})"
            )
        checks.append(rules.at_most("perplexity", value, bound, text))
    if (bound := settings.max_kl) is not None:
        value = fit.kl if fit else None
        text = "no held-out answer has the teacher's log-probabilities in the student's tokens"
        if fit and value is not None:
            text = f"divergence from the teacher is at least {value:.3f} nats a token on {fit.kl_tokens} tokens "
            text += f"(allowed {bound:g})"
        checks.append(rules.at_most("divergence", value, bound, text))
    return checks


def _speed(rules: _Rules) -> list[Check]:
    settings, speed, checks = rules.settings, rules.candidate.speed, list[Check]()
    unknown = "the replay has no timed answer"
    if (bound := settings.max_p95_ms) is not None:
        text = f"95% of the answers took {speed.p95_ms:.0f} ms or less (allowed {bound:g})" if speed else unknown
        checks.append(rules.at_most("latency", speed.p95_ms if speed else None, bound, text))
    if (bound := settings.max_p95_ratio) is not None and rules.champion is not None:
        before = rules.champion.speed
        ratio = speed.p95_ms / before.p95_ms if speed and before else None
        text = (
            f"95% of the answers came within {ratio:.2f} times the champion's time (allowed {bound:g})"
            if ratio is not None
            else unknown
        )
        checks.append(rules.at_most("latency_against_champion", ratio, bound, text))
    if (bound := settings.min_tokens_per_second) is not None:
        rate = speed.tokens_per_second if speed else None
        text = f"{rate:.0f} tokens/s in the replay (at least {bound:g})" if rate is not None else unknown
        checks.append(rules.at_least("throughput", rate, bound, text))
    return checks


RULES: Final[tuple[Callable[[_Rules], list[Check]], ...]] = (
    _cost,
    _slices,
    _golden,
    _probes,
    _refusals,
    _fit,
    _speed,
)
