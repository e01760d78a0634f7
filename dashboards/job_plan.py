"""A job before it begins, in words: what it would find, take and cost; and what starts jobs by itself."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec

from dashboards import words
from ledger import trigger_facts
from ledger.dataset_preview import Preview
from ledger.distilling import Distilling, Schedule, Trigger
from ledger.job_settings import JobSettings
from ledger.jobs import Job
from ledger.records import NANO
from ledger.store import Store

__all__ = ("holds", "settings", "shown", "triggers", "unfinished")

DROPPED: Final = {
    "not_to_be_trained_on": "the caller, its key or the settings keep it from training",
    "failed": "the answer was an error",
    "cut_off": "the answer is not whole (cut off, or a tool was called)",
    "no_content_kept": "its content was not kept, has expired or was erased",
    "feedback_too_low": "its feedback is below distill.data.min_feedback, or it has none",
    "other_tags": "it has none of the tags",
}
TRIGGERS: Final = {
    "schedule": "schedule",
    "volume": "new answers of the teacher",
    "drift": "drift of the live release",
    "escalation": "rise of the escalation rate",
}
TRIGGER_STATES: Final = {
    "off": "off",
    "waiting": "not yet",
    "due": "due: a worker starts a job within seconds",
    "held": "due, but held back",
}
HOLDS: Final = {
    "cool_down": "cool-down since the last job",
    "teacher_budget": "comparing answers, this month",
    "compute_budget": "training, this month",
    "window": "hours in which jobs start",
}


def _number(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:,.0f}"


MEASURES: Final[dict[str, Callable[[float | None], str]]] = {"escalation": words.percent}
"""Of triggers that do not count something."""


def unfinished(store: Store) -> Job | None:
    """The job that a new one would wait for."""
    return trigger_facts.unfinished(store)


def shown(found: Preview, known: Distilling, asked: JobSettings) -> dict[str, Any]:
    """The figures of a preview, the rows that are dropped, and what a confirmation says."""
    return {
        "figures": _figures(found, known),
        "dropped": [[DROPPED.get(why, why), words.count(n)] for why, n in found.dropped.items()],
        "refused": found.refused,
        "warning": found.warning,
        "is_filtered": bool(asked.given),
        "start_from": known.start_from,
        "confirm": _confirmation(found, known, asked),
    }


def _figures(found: Preview, known: Distilling) -> list[dict[str, str]]:
    read = "all that there are" if found.is_whole else f"the newest {found.read:,}; there are more"
    corrected = f"and {found.corrections:,} corrections by callers" if found.corrections else "no corrections yet"
    if found.train is None:
        rows = f"at most {found.at_most:,}"
        why = "no dataset was made before: how many content will drop is not known"
    else:
        n = found.train.n
        rows = f"about {found.train.value:,.0f}"
        why = f"{_range(found.train.low, found.train.high, n)}, as of the last {_counted(n, 'dataset')}"
    return [
        {"name": "Answers of the teacher", "value": words.count(found.read), "note": read},
        {"name": "Of them usable", "value": words.count(found.usable), "note": corrected},
        {"name": "Rows to train on", "value": rows, "note": f"{why}; {found.min_examples:,} are needed"},
        {"name": "Time", "value": _time(found), "note": _time_note(found)},
        {"name": "Computing", "value": _computing(found, known), "note": _computing_note(known)},
        {"name": "Comparing answers", "value": _calls(found), "note": _calls_note(found)},
    ]


def _range(low: float, high: float, n: int) -> str:
    return f"{low:,.0f} to {high:,.0f}" if n > 1 else "no range yet"


def _counted(n: int, what: str) -> str:
    return what if n == 1 else f"{n} {what}s"


def _time(found: Preview) -> str:
    return words.NOTHING if found.seconds is None else f"about {words.duration(found.seconds.value)}"


def _time_note(found: Preview) -> str:
    if found.seconds is None:
        return "no job was judged yet, so it is not known"
    low, high, n = found.seconds.low, found.seconds.high, found.seconds.n
    bounds = f"{words.duration(low)} to {words.duration(high)}" if n > 1 else "no range yet"
    return f"{bounds}; by the rows and the time of the last {_counted(n, 'job')}"


def _computing(found: Preview, known: Distilling) -> str:
    if found.seconds is None or known.hour_cost is None:
        return words.NOTHING
    low, middle, high = (
        words.money(int(known.hour_cost * Decimal(repr(seconds)) / 3_600 * NANO))
        for seconds in (found.seconds.low, found.seconds.value, found.seconds.high)
    )
    return f"about {middle}" + (f" ({low} to {high})" if found.seconds.n > 1 else "")


def _computing_note(known: Distilling) -> str:
    if known.hour_cost is None:
        return "its hours have no price: student.gpu_hour_cost is not set"
    return f"its time at {known.hour_cost} an hour (student.gpu_hour_cost)"


def _calls(found: Preview) -> str:
    return words.NOTHING if found.calls_nano is None else f"about {words.money(found.calls_nano.value)}"


def _calls_note(found: Preview) -> str:
    if found.calls_nano is None:
        return "by judges and embeddings; no job was judged yet, so it is not known"
    low, high, n = found.calls_nano.low, found.calls_nano.high, found.calls_nano.n
    bounds = f"{words.money(low)} to {words.money(high)}" if n > 1 else "no range yet"
    return f"{bounds}; by judges and embeddings, in the hours of the last {_counted(n, 'job')}"


def _confirmation(found: Preview, known: Distilling, asked: JobSettings) -> str:
    rows = f"about {found.train.value:,.0f}" if found.train else f"at most {found.at_most:,}"
    time = "How long it takes and what it costs is not known before a first job."
    if found.seconds is not None:
        time = f"It takes {_time(found)} ({_time_note(found)}). Computing: {_computing(found, known)}"
        time = f"{time} ({_computing_note(known)}). Comparing answers: {_calls(found)} ({_calls_note(found)})."
    waits = known.approval == "manual" or bool(asked.given)
    then = "waits for approval" if waits else "goes live, or on trial, by itself"
    return (
        f"Start a job?\n\nIt builds a dataset of {rows} rows, trains a student, evaluates it beside the live release "
        f"and lets the gate decide. A release that passes {then}. Nothing changes for callers before that.\n\n"
        f"{time}"
    )


def settings(schedule: Schedule) -> list[list[str]]:
    """Each setting of the triggers and its value."""
    return [[f"distill.triggers.{name}", _value(value)] for name, value in schedule.settings.items()]


def _value(value: Any) -> str:
    if value is None or value in ([], ()):
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def triggers(schedule: Schedule) -> list[list[str]]:
    """Each trigger: its state, what it measures now, from where on it is due, when that may be, and why."""
    return [
        [
            TRIGGERS.get(each.name, each.name),
            TRIGGER_STATES.get(each.state, each.state),
            _measure(each, each.value),
            _measure(each, each.threshold),
            words.when(each.next_at),
            each.why or words.NOTHING,
        ]
        for each in schedule.triggers
    ]


def _measure(trigger: Trigger, value: float | None) -> str:
    return MEASURES.get(trigger.name, _number)(value)


def holds(schedule: Schedule) -> list[list[str]]:
    """Each limit: whether it holds jobs back now, what is used of it, what is left, and until when."""
    rows: list[list[str]] = []
    for each in schedule.holds:
        limit = words.NOTHING if each.limit is None else f"{each.limit:,.6g} {each.unit}"
        used = words.NOTHING if each.used is None else f"{each.used:,.2f} {each.unit}"
        left = words.NOTHING
        if each.limit is not None and each.used is not None:
            left = f"{max(0.0, each.limit - each.used):,.2f} {each.unit}"
        state = "holds jobs back" if each.holds else "free"
        rows.append([HOLDS.get(each.name, each.name), state, used, limit, left, words.when(each.until)])
    return rows
