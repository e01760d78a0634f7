"""What asks for a look, in words and with the page where it is looked at: the worst first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

from dashboards import serving_words, words
from dashboards.overview_tables import Found, own
from ledger.records import NANO
from ledger.requests import Usage
from ledger.rollups import DAY_MS
from ledger.store import now_ms

__all__ = ("Alert", "alerts")

NEARLY_SPENT: Final = Decimal("0.8")
MANY_ERRORS: Final = 0.05
"""As the rule `StillroomErrors` has it."""
ENOUGH: Final = 20
"""Requests of the last hour, fewer of which say nothing of a share."""
SPOOL_BYTES: Final = 100_000_000
"""As the rule `StillroomSpoolFilling` has it."""
NEW_MS: Final = DAY_MS
"""Drift, and a failed job, are news for so long."""
MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Alert:
    """``link`` is a page, and ``where`` its name; not ``is_bad``: it only waits for a person."""

    text: str
    link: str
    where: str
    is_bad: bool = True


def alerts(found: Found, standing: Any, target: float | None) -> list[Alert]:
    """Of what was read, and of how serving stands (`gateway.serving_api.Serving`)."""
    now = now_ms()
    return [*_serving(standing), *_errors(found.last_hour), *_spool(standing), *_agreement(found, target),
            *_budgets(found), *_drift(found, now), *_jobs(found, now)]  # fmt: skip


def _serving(standing: Any) -> Iterator[Alert]:
    said = serving_words.warnings(standing)
    swap = serving_words.swap(standing) if serving_words.is_away(standing) else ""
    for text in (*([swap] if swap else []), *said):
        yield Alert(text, "/ops/serving", "Serving")


def _errors(hour: Mapping[tuple[Any, ...], Usage]) -> Iterator[Alert]:
    asked = own(hour).values()
    total, failed = sum(each.requests for each in asked), sum(each.errors for each in asked)
    if total >= ENOUGH and failed > MANY_ERRORS * total:
        text = f"{failed:,} of the last hour's {total:,} requests ended with a status of 400 or above."
        yield Alert(text, "/ops/traffic?range=1h&status=error", "These requests")


def _spool(standing: Any) -> Iterator[Alert]:
    if standing.spool_bytes > SPOOL_BYTES:
        waiting = f"{standing.spool_bytes / MB:,.0f} MB of records"
        text = f"{waiting} wait in this process's spool: the store does not take them."
        yield Alert(text, "", "")
    if standing.spool_refused:
        yield Alert(f"The spool's disk refused {standing.spool_refused:,} records: they are lost.", "", "")


def _agreement(found: Found, target: float | None) -> Iterator[Alert]:
    known = found.agreement
    if known is not None and target is not None and known.whole_bounds[1] < target:
        text = f"Agreement is below the target of {target:.0%}, with its whole interval."
        yield Alert(text, "/ops/router", "Router")


def _budgets(found: Found) -> Iterator[Alert]:
    for key in found.keys:
        spent = found.spend.get(key.id)
        for limit, used, name in (
            (key.policy.budget_day, spent.day if spent else 0, "today's"),
            (key.policy.budget_month, spent.month if spent else 0, "this month's"),
        ):
            if limit and key.revoked_at is None and Decimal(used) / NANO >= NEARLY_SPENT * Decimal(str(limit)):
                part = Decimal(used) / NANO / Decimal(str(limit))
                text = f"{key.name} has spent {part:.0%} of {name} budget."
                yield Alert(text, f"/ops/keys/{quote(key.id, safe='')}", "The key")


def _drift(found: Found, now: int) -> Iterator[Alert]:
    seen: set[str] = set()
    for each in found.events:
        kind = str(each.data.get("drift", ""))
        if each.kind == "drift" and each.at > now - NEW_MS and kind not in seen:
            seen.add(kind)
            said = each.data.get("text") or f"{kind} drifted"
            yield Alert(f"Drift of {each.subject}, {words.when(each.at)}: {said}.", "/ops/router", "Router")


def _jobs(found: Found, now: int) -> Iterator[Alert]:
    newest = found.jobs[0] if found.jobs else None
    if newest is not None and newest.state == "failed" and newest.updated_at > now - NEW_MS:
        yield Alert(f"The newest job, {newest.id}, failed.", f"/ops/jobs/{quote(newest.id, safe='')}", "The job")
    for job in found.jobs:
        if job.state == "awaiting_approval":
            text = f"Release {job.release_id} passed its gate and waits for a decision."
            yield Alert(text, f"/ops/jobs/{quote(job.id, safe='')}", "Decide", is_bad=False)
