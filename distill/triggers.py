"""Starts jobs when their time has come, and says once why it does not: a pass of the worker.

Every worker runs it. The job that a trigger makes is named after the job before it, so that of workers that find the
same at once only the first makes one.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
import numpy as np
import structlog

from distill.schedule import opens_at, parse_schedule, parse_window
from distill.trigger_settings import TriggerSettings
from ledger import jobs, releases, trigger_facts
from ledger.jobs import Job
from ledger.releases import Release
from ledger.requests import HOUR_MS
from ledger.spending import Periods
from ledger.store import Store, now_ms
from router.comparators import DEFERRED

__all__ = ("Hold", "TriggerState", "Triggers", "holds", "rise", "trigger_states")

State = Literal["off", "waiting", "due", "held"]
RECENT_MS: Final = 24 * HOUR_MS
BASELINE_MS: Final = 7 * RECENT_MS
MIN_HOURS: Final = 12
"""With traffic, on either side of a comparison."""
Z: Final = 2.576
"""One-sided 99.5%: it is looked at day after day."""

log = structlog.get_logger(__name__)


class TriggerState(msgspec.Struct, frozen=True):
    """One trigger, now. ``value`` and ``threshold`` are in the trigger's own measure, ``next_at`` is ms."""

    name: str
    state: State
    value: float | None = None
    threshold: float | None = None
    next_at: int | None = None
    """When it may start a job next, where that is known."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """Why no job starts by itself now, and until when (ms), where that is known."""

    kind: str
    text: str
    until: int | None = None


@dataclass(frozen=True, slots=True)
class _Now:
    """What the triggers look at. ``since`` stands for the last job where there is none."""

    store: Store
    settings: TriggerSettings
    at: int
    since: int
    last: Job | None
    unfinished: Job | None
    live: Release | None

    @property
    def last_at(self) -> int:
        """When the last job began, 0 before the first."""
        return self.last.created_at if self.last else 0


@dataclass
class Triggers:
    """One look at a time. ``since``: when this worker began to look; the schedule of the first job counts from it."""

    store: Store
    settings: TriggerSettings
    since: int = field(default_factory=now_ms)

    async def run(self) -> None:
        """Look, in a thread. Raises the store's error."""
        if self.settings.any_on:
            await asyncio.to_thread(self.look, now_ms())

    def look(self, now: int) -> Job | None:
        """Start a job if a trigger says so at a time (ms) and nothing holds it; what is held is noted, once."""
        seen = _seen(self.store, self.settings, now, self.since)
        due = [each for each in _states(seen) if each.state == "due"]
        if not due:
            return None
        held = list(holds(seen))
        for trigger in due:
            for hold in held:
                self._explain(seen, trigger, hold)
        return None if held else self._start(seen, due)

    def _start(self, seen: _Now, due: Sequence[TriggerState]) -> Job | None:
        first, why = due[0], "; ".join(trigger.why for trigger in due)
        name = f"trigger\0{seen.last.id if seen.last else ''}"
        job, is_new = jobs.create_once(self.store, name, first.name, f"trigger:{first.name}", {"note": why})
        if not is_new:
            return None
        data = {"decision": "started", "job": job.id, "why": f"started {job.id}", "text": why}
        trigger_facts.note_once(self.store, first.name, data, seen.last_at)
        log.info("job_triggered", job=job.id, trigger=first.name, text=why)
        return job

    def _explain(self, seen: _Now, trigger: TriggerState, hold: Hold) -> None:
        data = {"decision": "held", "why": hold.kind, "text": f"{trigger.why}, but {hold.text}"}
        if trigger_facts.note_once(self.store, trigger.name, data, seen.last_at):
            log.info("job_held", trigger=trigger.name, why=hold.kind, text=data["text"])


def trigger_states(store: Store, settings: TriggerSettings, now: int) -> list[TriggerState]:
    """Each trigger at a time (ms): one that is due and may not start a job is ``held``, and says by what."""
    seen = _seen(store, settings, now, now)
    held = list(holds(seen)) if settings.any_on else []
    return [_held(trigger, held) if trigger.state == "due" and held else trigger for trigger in _states(seen)]


def _held(trigger: TriggerState, held: Sequence[Hold]) -> TriggerState:
    ends = [hold.until for hold in held]
    until = None if None in ends else max(end for end in ends if end is not None)
    why = "; ".join((trigger.why, *(hold.text for hold in held)))
    return msgspec.structs.replace(trigger, state="held", next_at=until, why=why)


def _seen(store: Store, settings: TriggerSettings, now: int, since: int) -> _Now:
    last = jobs.newest(store)
    return _Now(store, settings, now, since, last, trigger_facts.unfinished(store), releases.live(store))


def holds(seen: _Now) -> Iterator[Hold]:
    """Everything that keeps jobs from starting by themselves."""
    settings, month = seen.settings, Periods.at(seen.at).month
    if seen.unfinished is not None:
        yield Hold("unfinished", f"job {seen.unfinished.id} is {seen.unfinished.state.replace('_', ' ')}")
    ready = seen.last_at + round(settings.min_hours_between_jobs * HOUR_MS)
    if seen.last is not None and ready > seen.at:
        yield Hold("cool_down", f"the last job began less than {settings.min_hours_between_jobs:g} hours ago", ready)
    if settings.teacher_budget_month is not None:
        paid = trigger_facts.paid_since(seen.store, DEFERRED, month)
        if paid >= settings.teacher_budget_month:
            text = f"comparing answers has cost {paid:.2f} this month, of {settings.teacher_budget_month:g}"
            yield Hold("teacher_budget", text, _next_month(month))
    if settings.compute_hours_month is not None:
        hours = trigger_facts.trained_seconds(seen.store, month) / 3_600
        if hours >= settings.compute_hours_month:
            text = f"jobs have trained for {hours:.1f} hours this month, of {settings.compute_hours_month:g}"
            yield Hold("compute_budget", text, _next_month(month))
    opens = opens_at([parse_window(text) for text in settings.windows], seen.at)
    if opens > seen.at:
        yield Hold("window", f"jobs start in {', '.join(settings.windows)} (UTC) only", opens)


def _next_month(month: int) -> int:
    begin = datetime.fromtimestamp(month / 1000, UTC)
    after = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
    return round(after.timestamp() * 1000)


def _states(seen: _Now) -> list[TriggerState]:
    return [look(seen) for look in TRIGGERS]


def _schedule(seen: _Now) -> TriggerState:
    text = seen.settings.schedule
    if text is None:
        return TriggerState("schedule", "off")
    due = parse_schedule(text).due_at(seen.last.created_at if seen.last else None, seen.since)
    return TriggerState("schedule", "due" if due <= seen.at else "waiting", next_at=max(due, seen.at), why=text)


def _volume(seen: _Now) -> TriggerState:
    wanted = seen.settings.new_answers
    if not wanted:
        return TriggerState("volume", "off")
    # a job under way takes what there is by now
    since = seen.unfinished.created_at if seen.unfinished else trigger_facts.last_dataset_at(seen.store)
    found = trigger_facts.new_answers(seen.store, since, wanted)
    why = f"{found if found < wanted else f'at least {wanted}'} new answers of the teacher"
    return TriggerState("volume", "due" if found >= wanted else "waiting", found, wanted, why=why)


def _drift(seen: _Now) -> TriggerState:
    if not seen.settings.drift:
        return TriggerState("drift", "off")
    if seen.live is None:
        return TriggerState("drift", "waiting", 0, 1, why="no release is live")
    kinds = trigger_facts.drifts_since(seen.store, seen.live.id, seen.last_at)
    why = f"drift of {', '.join(sorted(set(kinds)))}" if kinds else "no drift since the last job"
    return TriggerState("drift", "due" if kinds else "waiting", len(kinds), 1, why=why)


def _escalation(seen: _Now) -> TriggerState:
    wanted = seen.settings.escalation_rise
    if wanted is None:
        return TriggerState("escalation", "off")
    if seen.live is None:
        return TriggerState("escalation", "waiting", None, wanted, why="no release is live")
    hour = seen.at // HOUR_MS * HOUR_MS
    start = (seen.live.promoted_at or seen.live.created_at) // HOUR_MS * HOUR_MS + HOUR_MS
    recent = hour - RECENT_MS
    before = trigger_facts.routed_hourly(seen.store, seen.live.id, start, min(start + BASELINE_MS, recent))
    after = trigger_facts.routed_hourly(seen.store, seen.live.id, recent, hour)
    if min(len(before), len(after)) < MIN_HOURS:
        why = (
            f"too little traffic since {seen.live.id} went live: {len(before)} and {len(after)} hours of {MIN_HOURS}"
        )
        return TriggerState("escalation", "waiting", None, wanted, why=why)
    low, (rate, _), (earlier, _) = rise(before, after), _share(after), _share(before)
    why = (
        f"the router gave {rate:.1%} to the teacher, {earlier:.1%} after the promotion: a rise of at least {low:.1%}"
    )
    return TriggerState("escalation", "due" if low > wanted else "waiting", low, wanted, why=why)


TRIGGERS: Final[tuple[Callable[[_Now], TriggerState], ...]] = (_schedule, _volume, _drift, _escalation)


def rise(before: Sequence[tuple[int, int]], after: Sequence[tuple[int, int]]) -> float:
    """Lower bound of the rise of a share from one set of hours to another, each hour (part, whole); one-sided 99.5%.

    Hours are the sampled unit, since the requests of one hour are alike: the ratio estimator's variance of Cochran,
    Sampling Techniques (1977), 6.3. It is not taken to be below the binomial one, with two of each kind added
    (Agresti and Caffo, doi:10.1080/00031305.2000.10474560), which an hour-by-hour constant share would be.
    """
    (old, old_variance), (new, new_variance) = _share(before), _share(after)
    return new - old - Z * float(np.sqrt(old_variance + new_variance))


def _share(hours: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The share over all hours, and the variance of its estimate."""
    part, whole = np.array(hours, dtype=np.float64).T
    n, count = float(whole.sum()), len(hours)
    share = float(part.sum()) / n
    between = float(np.square(part - share * whole).sum()) / n**2 * count / max(1, count - 1)
    padded = (float(part.sum()) + 2) / (n + 4)
    return share, max(between, padded * (1 - padded) / (n + 4))
