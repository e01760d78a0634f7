"""What each release saved by the hourly sums, how it was tried, and the releases page by page."""

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

import msgspec
import sqlalchemy as sa

from ledger import schema
from ledger.canaries import Canary
from ledger.dataset_preview import spent_on
from ledger.distilling import Distilling
from ledger.newest import behind, newest_first
from ledger.overview_figures import saving_interval
from ledger.records import NANO, UNASKED
from ledger.releases import Release, ReleaseError
from ledger.requests import Usage
from ledger.store import Store

__all__ = ("Saved", "releases_page", "saved_by_release", "training_cost", "trials_of")


class Saved(msgspec.Struct, frozen=True):
    """What the requests that a release decided on cost, and would have cost on the teacher, in nano-units.

    ``bounds`` are of the saving, 95 %: the baseline is an estimate, and the hours are taken for a sample of hours
    like them; None where they are too few. What was asked beside to learn is in the cost.
    """

    requests: int
    cost_nano: int
    baseline_nano: int
    hours: int
    bounds: tuple[int, int] | None

    @property
    def saved_nano(self) -> int:
        """Below 0 where the release cost more than it spared."""
        return self.baseline_nano - self.cost_nano


@dataclass(frozen=True, slots=True)
class _Hour:
    requests: int
    usage: Usage


def saved_by_release(store: Store, release_id: str | None = None) -> dict[str, Saved]:
    """By the release's id, of one or of all that decided on anything, live or tried."""
    table = schema.usage_hourly
    is_own = sa.case((table.c.reason.in_(UNASKED), 0), else_=table.c.requests)
    statement = (
        sa.select(
            table.c.release_id,
            sa.func.sum(is_own),
            sa.func.sum(table.c.cost_nano),
            sa.func.sum(table.c.baseline_nano),
        )
        .where(table.c.release_id == release_id if release_id is not None else table.c.release_id != "")
        .group_by(table.c.release_id, table.c.hour)
    )
    hours: defaultdict[str, list[_Hour]] = defaultdict(list)
    with store.read() as connection:
        for release, requests, cost, baseline in connection.execute(statement):
            usage = Usage(cost_nano=int(cost), baseline_nano=int(baseline))
            hours[release].append(_Hour(int(requests), usage))
    return {release: _saved(found) for release, found in hours.items()}


def _saved(hours: list[_Hour]) -> Saved:
    baseline = sum(each.usage.baseline_nano for each in hours)
    bounds = saving_interval(each.usage for each in hours)
    return Saved(
        requests=sum(each.requests for each in hours),
        cost_nano=sum(each.usage.cost_nano for each in hours),
        baseline_nano=baseline,
        hours=len(hours),
        # the bounds are shares, and no finer than a millionth
        bounds=None if bounds is None else cast("tuple[int, int]", tuple(_part(baseline, each) for each in bounds)),
    )


def _part(nano: int, share: float) -> int:
    return nano * round(share * 1_000_000) // 1_000_000


def training_cost(store: Store, release: Release, known: Distilling) -> Decimal | None:
    """What a release's job cost in currency units: its hours and its comparing of answers. None where unknown."""
    if release.job_id is None or known.hour_cost is None:
        return None
    spent = spent_on(store, release.job_id, known.paid_reasons)
    if spent is None:
        return None
    return known.hour_cost * Decimal(repr(spent.seconds)) / 3_600 + Decimal(spent.calls_nano) / NANO


def trials_of(store: Store, release_id: str) -> list[Canary]:
    """The canaries of a release, newest first."""
    table = schema.canaries
    statement = sa.select(table).where(table.c.release_id == release_id).order_by(table.c.started_at.desc())
    with store.read() as connection:
        rows = connection.execute(statement).mappings()
        return [Canary(**cast("dict[str, Any]", dict(row))) for row in rows]


def releases_page(store: Store, limit: int, before: str | None = None, state: str | None = None) -> list[Release]:
    """Releases, newest first, those behind the one named ``before``, of one state or all. Raises `ReleaseError`."""
    table = schema.releases
    statement = sa.select(table).order_by(*newest_first(table)).limit(limit)
    if state is not None:
        statement = statement.where(table.c.state == state)
    with store.read() as connection:
        if before is not None:
            place = behind(connection, table, before)
            if place is None:
                raise ReleaseError(f"there is no release {before!r}")
            statement = statement.where(place)
        return [Release(*row) for row in connection.execute(statement)]
