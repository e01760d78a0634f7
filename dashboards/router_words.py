"""What the page of the router says: thresholds, what a point of the curve would do, and drift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dashboards import words
from dashboards.router_tables import choices_chart, choices_table
from ledger.events import Event
from ledger.records import NANO
from ledger.releases import Release
from ledger.rollups import DAY_MS
from ledger.set_thresholds import SetThresholds
from ledger.store import now_ms

__all__ = (
    "NO_RELEASE", "Volume", "Watch", "choices", "detectors", "drift_events", "estimated", "thresholds", "why_empty",
)  # fmt: skip

MONTH_MS: Final = 30 * DAY_MS
LASTING_MS: Final = DAY_MS
"""A drift that lasts is noted again after a day."""
LEAST_SCORED: Final = 500
BARS: Final = ("hard", "confident", "confident_end", "sure")
BAR_NAMES: Final = {
    "hard": ("Hard below", "the score; the teacher answers at once"),
    "confident": ("Confidence of streams from", "by the first tokens; below it the teacher takes over"),
    "confident_end": ("Confidence of whole answers from", "below it the teacher answers anew"),
    "sure": ("Sure from", "the score; the student answers unjudged"),
}
NO_RELEASE: Final = "No release is live, so there is no router to look at: the teacher answers everything."
DETECTORS: Final = {
    "novelty": ("Features", "are the requests like those the router was trained on?"),
    "score": ("Scores", "are the router's scores spread as over its training requests?"),
    "agreement": ("Agreement", "do the student's answers agree as often as the target asks?"),
}


@dataclass(frozen=True, slots=True)
class Volume:
    """How many requests the router decided on in a time (ms)."""

    decided: int
    span_ms: int

    @property
    def a_month(self) -> int:
        """The same in 30 days."""
        return round(self.decided * MONTH_MS / self.span_ms) if self.span_ms else 0

    def cost(self, point: Any) -> int:
        """Of a month under thresholds, in nano-units: the estimate for a request, as often."""
        return round(point.cost * NANO) * self.a_month


@dataclass(frozen=True, slots=True)
class Watch:
    """What is known of drift. ``looked`` and ``live`` are the gateway's, the settings are the router's."""

    looked: Sequence[Any]
    alarms: Mapping[str, int]
    settings: Any
    release: Release | None
    live: Any


def thresholds(live: Any, kept: SetThresholds | None, names: Mapping[str, str]) -> dict[str, Any]:
    """Of the live release: figures, who set them, and what is promised."""
    now, own = live.router.thresholds, live.own_thresholds
    shown = [_figure(BAR_NAMES[name][0], _bar(getattr(now, name)), BAR_NAMES[name][1]) for name in BARS]
    if not now.feasible:
        shown = []
    promised = f"{words.percent(own.agreement_target)} of the answers agree, with {1 - own.delta:.0%} confidence"
    return {
        "id": live.id,
        "figures": shown,
        "is_feasible": own.feasible,
        "promised": f"{promised}, shown on {own.n:,} held-out requests",
        "target": f"{words.percent(own.agreement_target)} with {1 - own.delta:.0%} confidence",
        "n": own.n,
        "set": None if kept is None else f"Set by {names.get(kept.actor, kept.actor)} at {words.when(kept.at)}.",
        "is_guaranteed": kept.guaranteed if kept else own.feasible,
        "undo": _undo(live.id, own),
    }


def why_empty(found: Any, settings: Any, days: int) -> str:
    """What is missing for estimates, and what to do; empty where nothing is."""
    report = found.report
    if report.thresholds is None:
        return (
            f"The router of {report.release} cannot be read, so nothing can be estimated; the gateway's log says why."
        )
    if not report.requests:
        return (
            f"The router decided on no request of {report.release} in the last {days} days whose content is kept. "
            "Send requests with the model auto, and let the gateway and the key keep content (log_content)."
        )
    if not report.labelled:
        return (
            f"Of {report.requests:,} requests none has an answer of both sides that is compared, so agreement cannot "
            f"be estimated. Both sides were asked for {report.asked:,}. router.explore_share is "
            f"{settings.explore_share:g}, router.shadow_share {settings.shadow_share:g}: where they are 0 no labels "
            "come; set them above 0. A worker (stillroom up, or stillroom worker) compares what is asked."
        )
    return ""


def estimated(found: Any, volume: Volume) -> list[dict[str, str]]:
    """What is estimated of the thresholds in force, with what it is read from."""
    report = found.report
    now = report.in_force.get(report.estimator)
    read = "the newest " if report.requests >= found.read_at_most else ""
    shown = [_figure("Requests read", f"{read}{report.requests:,}", "decided by the router, content kept"),
             _figure("Labels", f"{report.labelled:,}", f"of {report.asked:,} with both answers")]  # fmt: skip
    if now is None or not report.labelled:
        return shown
    n = f"n = {now.labels:,} labels"
    bounds = f"{words.interval((now.low, now.high))} (95\u00a0%), {n}"
    error = report.score_calibration_error
    return [
        _figure("Agreement now", words.percent(now.agreement), bounds),
        _figure("To the teacher now", words.percent(now.teacher_share), f"n = {report.requests:,} requests"),
        _figure("A month now", words.money(volume.cost(now)), f"estimate; {_volume(volume)}"),
        *shown,
        _figure("Calibration error", words.percent(error), f"of the score, n = {report.labelled:,} labels"),
    ]


def choices(found: Any, volume: Volume, at: str | None) -> dict[str, Any]:
    """The points of the curve, each with what it would do in words, what sets it, and what is asked before."""
    report = found.report
    now = next(choice for choice in found.choices if choice.in_force)
    target = report.thresholds.agreement_target
    points = [_choice(each, now, volume, report.release, target) for each in found.choices]
    here = next(i for i, choice in enumerate(found.choices) if choice.in_force)
    chosen = int(at) if at and at.isdecimal() and int(at) < len(points) else here
    own = found.own
    return {
        "choices": points,
        "chosen": chosen,
        "is_chosen": chosen != here,
        "over": "a month's cost" if any(volume.cost(each.point) for each in found.choices) else "the teacher's share",
        "curve": choices_chart(found.choices, volume.cost, target),
        "curve_table": choices_table(found.choices, volume.cost),
        "own": said(own, now, volume, target) if own else "",
        "volume": _volume(volume),
    }


def said(choice: Any, now: Any, volume: Volume, target: float) -> str:
    """What thresholds would do."""
    point, compared = choice.point, "" if choice.in_force else " (now {})"
    share = words.percent(point.teacher_share) + compared.format(words.percent(now.point.teacher_share))
    cost = words.money(volume.cost(point)) + compared.format(words.money(volume.cost(now.point)))
    billed = f"About {cost} a month" if volume.cost(point) or volume.cost(now.point) else "Nothing has a price"
    bounds = f"{words.interval((point.low, point.high))}, 95\u00a0%, n = {point.labels:,} labels"
    return (
        f"{'In force now. ' if choice.in_force else ''}The teacher answers {share} of the requests. "
        f"Agreement {words.percent(point.agreement)} ({bounds}); target {words.percent(target)}"
        f"{', which the whole interval misses' if point.high < target else ''}. {billed}. "
        + ("The guarantee holds." if choice.guaranteed else "No guarantee: these were not shown to keep the target.")
    )


def detectors(watch: Watch) -> list[list[str]]:
    """Rows of a table: what is watched, its state, since when, and what it is now."""
    looked = {each.kind: each for each in watch.looked}
    return [
        [f"{name}: {question}", *_detector(watch, kind, looked.get(kind))]
        for kind, (name, question) in DETECTORS.items()
    ]


def drift_events(found: Sequence[Event]) -> list[list[str]]:
    """Rows of a table."""
    rows: list[list[str]] = []
    for each in found:
        name = DETECTORS.get(str(each.data.get("drift")), (str(each.data.get("drift", words.NOTHING)), ""))[0]
        figures = f"{each.data.get('statistic', '-')} above {each.data.get('threshold', '-')}"
        n = each.data.get("n")
        row = [words.when(each.at), name, each.subject, str(each.data.get("text", words.NOTHING)), figures]
        rows.append([*row, words.count(n) if isinstance(n, int) else words.NOTHING])
    return rows


def _choice(choice: Any, now: Any, volume: Volume, release: str, target: float) -> dict[str, Any]:
    point, effect = choice.point, said(choice, now, volume, target)
    name = f"teacher {words.percent(point.teacher_share)}, agreement {words.percent(point.agreement)}"
    body = msgspec.to_builtins(choice.bars) | {"release": release}
    lost = "" if choice.guaranteed else " They are set without the guarantee."
    return {
        "name": name + (", in force" if choice.in_force else ""),
        "said": effect,
        "body": body if choice.guaranteed else body | {"accept_without_guarantee": True},
        "kept": choice.guaranteed,
        "now": choice.in_force,
        "confirm": f"Set these thresholds for {release}? {effect}{lost} New requests are decided by them within a "
        "second, in every gateway process. It can be undone at once.",
    }


def _detector(watch: Watch, kind: str, looked: Any) -> list[str]:
    """State, since when, and the figures."""
    settings, own = watch.settings, watch.live.own_thresholds
    begun = (watch.release.promoted_at or watch.release.created_at) if watch.release else None
    alarm = watch.alarms.get(kind)
    since = words.when(alarm or begun)
    if settings.drift_alarms_per_month <= 0:
        return ["off: router.drift_alarms_per_month is 0", words.NOTHING, words.NOTHING]
    if kind == "agreement" and not own.feasible:
        return ["off: no thresholds keep the target, so there is none to watch", words.NOTHING, words.NOTHING]
    figures = _looked(kind, looked)
    if alarm is not None and now_ms() - alarm <= LASTING_MS:
        return ["drifted", since, figures]
    if kind == "agreement" and not (looked and looked.n):
        blind = (
            "waits for labels" if settings.explore_share > 0 else "blind: router.explore_share is 0, no labels come"
        )
        return [blind, since, figures]
    if kind != "agreement" and (looked is None or looked.n < LEAST_SCORED):
        return [f"waits for {LEAST_SCORED} requests", since, figures]
    return ["quiet since the last alarm" if alarm else "quiet", since, figures]


def _looked(kind: str, looked: Any) -> str:
    if looked is None:
        return words.NOTHING
    if kind == "agreement":
        if looked.value is None:
            return "n = 0 labels"
        asked = f"{words.percent(looked.bound)} asked"
        return f"{words.percent(looked.value)} of the student's, {asked}, n = {looked.n:,} labels"
    n = f"n = {looked.n:,} requests"
    if looked.value is None:
        return n
    return f"distance {looked.value:.2f}, an alarm takes more than {looked.bound:.2f}, {n}"


def _undo(release: str, own: Any) -> str:
    bars = ", ".join(f"{name} {_bar(getattr(own, name))}" for name in BARS)
    then = (
        f"It decides by those it came with again: {bars}."
        if own.feasible
        else "The teacher answers everything again."
    )
    return (
        f"Take back the thresholds set for {release}? {then} New requests are decided so within a second, in every "
        "gateway process."
    )


def _volume(volume: Volume) -> str:
    days = volume.span_ms / DAY_MS
    span = f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"
    return f"{volume.decided:,} decided requests of {span}, scaled to 30 days"


def _bar(value: float) -> str:
    return f"{value:.3f}" if value <= 1 else "never"


def _figure(name: str, value: str, note: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "note": note}
