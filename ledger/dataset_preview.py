"""What a dataset would have, a job would take and cost: counted in bounded time, from columns and past jobs alone.

Content is not read: what only content tells (equal prompts, tools, screens) is taken from the datasets before.
"""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec
import sqlalchemy as sa

from ledger import datasets, schema
from ledger.datasets import Dataset
from ledger.distilling import Distilling
from ledger.feedback import correction_in
from ledger.job_settings import JobSettings
from ledger.request_filters import TrainableFilters
from ledger.requests import HOUR_MS
from ledger.store import Store

__all__ = ("MOST", "Estimate", "MoneyEstimate", "Preview", "Spent", "preview", "spent_on")

MOST: Final = 50_000
"""The newest so many answers of the teacher are counted."""
MOST_FEEDBACK: Final = 5_000
PAST: Final = 5
"""Datasets and jobs that estimates are made from, the newest."""
TOO_MANY: Final = ("beyond_max_examples", "replay_share")
"""Reasons for which a dataset left out rows that it could have taken."""
USABLE: Final = "usable"


class Estimate(msgspec.Struct, frozen=True):
    """The middle of what ``n`` past cases say, and their range."""

    value: float
    low: float
    high: float
    n: int


class MoneyEstimate(msgspec.Struct, frozen=True):
    """An `Estimate` in nano-units."""

    value: int
    low: int
    high: int
    n: int


class Spent(msgspec.Struct, frozen=True):
    """What a job took until it was judged: seconds, and nano-units for comparing answers."""

    seconds: float
    calls_nano: int


class Preview(msgspec.Struct, frozen=True):
    """``read`` answers of the teacher were counted, of which ``usable`` have nothing in their columns against them.

    ``train`` is how many of them, and of ``corrections``, a dataset trains on; ``seconds`` and ``calls_nano`` (the
    cost of comparing answers) are a job's. Each is None where nothing like it was done before.
    """

    read: int
    is_whole: bool
    """False where there are more, older ones."""
    usable: int
    corrections: int
    dropped: dict[str, int]
    at_most: int
    """Rows to train on, were nothing dropped for its content."""
    train: Estimate | None
    seconds: Estimate | None
    calls_nano: MoneyEstimate | None
    min_examples: int
    refused: str
    """Why no job would succeed; empty where one may."""
    warning: str


def preview(store: Store, known: Distilling, asked: JobSettings, now: int) -> Preview:
    """What such a job would find that begins at a time (ms). Counts `MOST` rows at most, whatever the ledger's size.

    Raises `ValueError` where it asks for more than the settings take.
    """
    filters = msgspec.structs.replace(known.data, **known.data.narrowed(asked, now)).filters(now)
    found = _counted(store, filters, known.paid_reasons)
    usable, read = found.pop(USABLE, 0), found.total()
    read += usable
    corrections = _corrections(store, filters)
    most = min(known.max_examples, asked.max_examples or known.max_examples)
    at_most = min(most, round((usable + corrections) * (1 - known.holdout_share)))
    past = datasets.list_datasets(store, PAST)
    train = _scaled(at_most, [share for share in map(_kept, past) if share is not None])
    rows = train.value if train else at_most
    durations = _durations(store, past, known.paid_reasons)
    too_few = usable + corrections < known.min_examples
    refused = known.refused or (_too_few(usable + corrections, known.min_examples) if too_few else "")
    return Preview(
        read=read,
        is_whole=read < MOST,
        usable=usable,
        corrections=corrections,
        dropped=dict(sorted(found.items())),
        at_most=at_most,
        train=train,
        seconds=_scaled(rows, [spent.seconds / n for n, spent in durations]),
        calls_nano=_scaled_money(round(rows), [(spent.calls_nano, n) for n, spent in durations]),
        min_examples=known.min_examples,
        refused=refused,
        warning="" if refused else _doubt(train, at_most, known.min_examples),
    )


def _too_few(found: int, needed: int) -> str:
    return f"{found:,} answers can be trained on at most, {needed:,} are needed (distill.min_examples)"


def _doubt(train: Estimate | None, at_most: int, needed: int) -> str:
    if train is not None and train.low < needed:
        return f"perhaps {train.low:,.0f} rows are left to train on; a job with fewer than {needed:,} fails"
    if at_most < needed:
        return f"about {at_most:,} rows are left to train on; a job with fewer than {needed:,} fails"
    return ""


def _counted(store: Store, filters: TrainableFilters, paid: Sequence[str]) -> Counter[str]:
    """The newest answers of the teacher by what speaks against them, `USABLE` where nothing does."""
    newest = _newest_of_teacher(filters, paid).subquery()
    contents, wanted = schema.contents, set(filters.tags)
    why = sa.case(
        (~newest.c.trainable, "not_to_be_trained_on"),
        (newest.c.status >= 400, "failed"),
        (sa.func.coalesce(newest.c.finish_reason, "") != "stop", "cut_off"),
        (contents.c.request_id.is_(None), "no_content_kept"),
        *_feedback_case(newest, filters),
        else_=USABLE,
    )
    # tags are JSON, which the two databases search in different ways
    tags = sa.cast(newest.c.tags, sa.Text) if wanted else sa.literal("[]")
    statement = (
        sa.select(why, tags, sa.func.count())
        .select_from(newest.outerjoin(contents, contents.c.request_id == newest.c.id))
        .group_by(why, tags)
    )
    found: Counter[str] = Counter()
    with store.read() as connection:
        for reason, text, n in connection.execute(statement):
            is_other = bool(wanted) and wanted.isdisjoint(json.loads(text))
            found["other_tags" if is_other else reason] += n
    return found


def _newest_of_teacher(filters: TrainableFilters, paid: Sequence[str]) -> sa.Select[Any]:
    table = schema.requests
    names = ("id", "trainable", "status", "finish_reason", "tags")
    statement = sa.select(*(table.c[name] for name in names)).where(table.c.route == "teacher", *_within(filters))
    if paid:
        # calls that compare answers are nobody's requests
        statement = statement.where(table.c.reason.not_in(paid))
    return statement.order_by(table.c.created_at.desc()).limit(MOST)


def _within(filters: TrainableFilters) -> list[sa.ColumnElement[bool]]:
    table = schema.requests
    lists = {"key_id": filters.keys, "route": filters.routes, "reason": filters.reasons}
    lists["finish_reason"] = filters.finish_reasons
    found: list[sa.ColumnElement[bool]] = [table.c[name].in_(values) for name, values in lists.items() if values]
    until = sa.true() if filters.until is None else table.c.created_at < filters.until
    return [*found, table.c.created_at >= filters.since, until]


def _feedback_case(newest: Any, filters: TrainableFilters) -> list[Any]:
    if filters.min_feedback is None:
        return []
    said = schema.feedback
    score = (
        sa.select(said.c.score)
        .where(said.c.request_id == newest.c.id)
        .order_by(said.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    return [(sa.func.coalesce(score, -1.0) < filters.min_feedback, "feedback_too_low")]


def _corrections(store: Store, filters: TrainableFilters) -> int:
    """Answers that were not the teacher's, or not whole, and that a caller's newest feedback puts right."""
    table, contents, said = schema.requests, schema.contents, schema.feedback
    answered = sa.and_(table.c.status < 400, table.c.route == "teacher", table.c.finish_reason == "stop")
    statement = (
        sa.select(said.c.request_id, said.c.body)
        .join(table, table.c.id == said.c.request_id)
        .join(contents, contents.c.request_id == table.c.id)
        .where(table.c.trainable, ~sa.func.coalesce(answered, sa.false()), *_within(filters))
        .order_by(said.c.id)
    )
    with store.read() as connection:
        # feedback's ids are in the order of time: of a request's the last one stays
        newest = dict(connection.execute(statement.limit(MOST_FEEDBACK)).tuples().all())
    return sum(correction_in(body) is not None for body in newest.values())


def _kept(dataset: Dataset) -> float | None:
    """The share of a past dataset's rows that its screens left."""
    about = dataset.manifest
    dropped = cast("Mapping[str, int]", about.get("dropped") or {})
    kept = about.get("train", 0) + about.get("held_out", 0) + sum(dropped.get(name, 0) for name in TOO_MANY)
    read = kept + sum(n for name, n in dropped.items() if name not in TOO_MANY)
    return kept / read if read else None


def spent_on(store: Store, job_id: str, paid_reasons: Sequence[str]) -> Spent | None:
    """From its beginning to its verdict, the cost over whole hours; None for a job that was not judged."""
    times = _times(store, job_id)
    return None if times is None else Spent((times[1] - times[0]) / 1000, _paid(store, times, paid_reasons))


def _durations(store: Store, past: Sequence[Dataset], paid: Sequence[str]) -> list[tuple[int, Spent]]:
    """The training rows of past jobs, and what each took."""
    found: list[tuple[int, Spent]] = []
    for dataset in past:
        rows = dataset.manifest.get("train", 0)
        spent = spent_on(store, dataset.job_id, paid) if dataset.job_id and rows else None
        if spent is not None:
            found.append((rows, spent))
    return found


def _times(store: Store, job_id: str) -> tuple[int, int] | None:
    """When a job began and when it was judged (ms), None for one that did not come so far."""
    table = schema.job_events
    statement = (
        sa.select(table.c.at, table.c.data)
        .where(table.c.job_id == job_id, table.c.kind == "state")
        .order_by(table.c.id)
    )
    with store.read() as connection:
        states = [(at, data.get("state")) for at, data in connection.execute(statement)]
    begun = next((at for at, state in states if state == "building"), None)
    tested = max((i for i, (_, state) in enumerate(states) if state == "evaluating"), default=None)
    if begun is None or tested is None or tested + 1 == len(states):
        return None
    at, state = states[tested + 1]
    return (begun, at) if state not in ("failed", "cancelled") else None


def _paid(store: Store, times: tuple[int, int], reasons: Sequence[str]) -> int:
    """In the hours that a job lay in, in nano-units."""
    table = schema.usage_hourly
    statement = sa.select(sa.func.sum(table.c.cost_nano)).where(
        table.c.hour >= times[0] // HOUR_MS * HOUR_MS, table.c.hour <= times[1], table.c.reason.in_(reasons)
    )
    with store.read() as connection:
        return int(connection.execute(statement).scalar() or 0)


def _scaled(rows: float, of_each: Sequence[float]) -> Estimate | None:
    if not of_each:
        return None
    return Estimate(rows * statistics.median(of_each), rows * min(of_each), rows * max(of_each), len(of_each))


def _scaled_money(rows: int, of_each: Sequence[tuple[int, int]]) -> MoneyEstimate | None:
    """``of_each``: nano-units and the rows that they were spent on."""
    scaled = sorted(rows * nano // n for nano, n in of_each)
    return MoneyEstimate(statistics.median_low(scaled), scaled[0], scaled[-1], len(scaled)) if scaled else None
