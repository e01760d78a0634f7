"""Jobs and releases in words: their states, the stages of a job, and what its events say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dashboards import words
from ledger.canaries import Trial
from ledger.jobs import FINAL_STATES, Job

__all__ = ("JOB_STATES", "KINDS", "RELEASE_STATES", "Stage", "approval", "check_rows", "event", "stages")

JOB_STATES: Final = {
    "queued": "waits for a worker",
    "building": "building the dataset",
    "training": "training",
    "evaluating": "being evaluated",
    "awaiting_approval": "waits for approval",
    "canary": "tried on live traffic",
    "live": "its release went live",
    "rejected": "rejected",
    "failed": "failed",
    "cancelled": "cancelled",
    "rolled_back": "its release was taken back",
}
RELEASE_STATES: Final = {
    "candidate": "candidate",
    "canary": "tried on live traffic",
    "live": "live",
    "retired": "retired",
    "rejected": "rejected",
    "rolled_back": "taken back",
}
STAGES: Final = (
    ("queued", "Queue"),
    ("building", "Dataset"),
    ("training", "Training"),
    ("evaluating", "Evaluation"),
    ("awaiting_approval", "Approval"),
    ("canary", "Trial"),
    ("live", "Live"),
)
AS_SET: Final = ("awaiting_approval", "canary")
"""Stages that a job has only where the settings want them."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a job. ``state``: done, now, ahead, skipped, or broken off."""

    name: str
    state: str
    at: int | None


def stages(job: Job, seen: Sequence[tuple[int, str]]) -> list[Stage]:
    """The steps of a job, with when each was come to last (ms)."""
    times = {"queued": job.created_at} | {state: at for at, state in seen}
    names = [name for name, _ in STAGES]
    reached = max(names.index(name) for name in names if name in times)
    if job.state == "live":
        reached = len(names) - 1
    return [Stage(said, _step(job, i, reached, times), times.get(name)) for i, (name, said) in enumerate(STAGES)]


def _step(job: Job, i: int, reached: int, times: Mapping[str, int]) -> str:
    name = STAGES[i][0]
    if i < reached:
        return "done" if name in times or name not in AS_SET else "skipped"
    if i > reached:
        return "ahead"
    if job.state == "live":
        return "done"
    return "broken off" if job.state in FINAL_STATES else "now"


def approval(job: Job, trial: Trial | None, has_champion: bool) -> str:
    """What will happen where a person approves."""
    what = f"Approve {job.release_id}?\n\n"
    if trial is None or not has_champion:
        return f"{what}It goes live at once and answers every request that its router trusts it with."
    share = words.percent(trial.share, 0)
    if trial.mode == "shadow":
        return (
            f"{what}It answers beside the live release in {share} of the conversations, unseen, until it is decided."
        )
    return (
        f"{what}It is tried on {share} of the conversations first. It goes live by itself when it is shown to hold "
        "the bounds, and is taken back when it is shown not to."
    )


def check_rows(checks: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Each rule of a gate: whether it holds, its name, its value and its bound, and what that means."""
    return [
        [
            "holds" if check.get("passed") else "FAILS",
            str(check.get("name", "")).replace("_", " "),
            _figure(check.get("value")),
            _figure(check.get("bound")),
            str(check.get("text", "")),
        ]
        for check in checks
    ]


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def event(kind: str, data: Mapping[str, Any]) -> str:
    """One event of a job as a sentence; one that we know no words for as its values."""
    tell = EVENTS.get(kind)
    try:
        return tell(data) if tell else _plain(data)
    except (KeyError, TypeError, ValueError):
        # of another version
        return _plain(data)


def _plain(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in data.items() if not isinstance(value, dict | list))


def _training(data: Mapping[str, Any]) -> str:
    loss = f"loss {data['loss']:.3f}"
    if data.get("validation_loss") is not None:
        loss = f"{loss}, of the validation rows {data['validation_loss']:.3f}"
    return f"step {data['step']:,} of {data['steps']:,}, {loss}, {data['tokens_per_second']:,.0f} tokens a second"


def _dataset(data: Mapping[str, Any]) -> str:
    dropped = sum(data["dropped"].values())
    return f"dataset: {data['train']:,} rows to train on, {data['held_out']:,} held out, {dropped:,} dropped"


def _check(data: Mapping[str, Any]) -> str:
    return f"{'holds' if data['passed'] else 'FAILS'}: {data['text']}"


EVENTS: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    "state": lambda data: JOB_STATES[data["state"]],
    "dataset_progress": lambda data: f"{data['what']}: {data['done']:,}{f' of {of:,}' if (of := data['of']) else ''}",
    "dataset": _dataset,
    "preparing": lambda data: f"the frozen layers are run once: {data['done']:,} of {data['of']:,}",
    "training": _training,
    "restart": lambda data: f"the trainer was ended by {data['ended_by']} and goes on from its checkpoint",
    "serving": lambda data: f"waiting for a student of {data['release']}, {data['seconds']:.0f} s so far",
    "evaluating": lambda data: f"asking the {data['who']}: {data['done']:,} of {data['of']:,}",
    "check": _check,
    "waiting": lambda data: data["text"],
}
KINDS: Final = tuple(EVENTS)
"""The kinds of events that a page listens for."""
