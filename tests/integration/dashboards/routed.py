"""A live release with traffic that its router decided on, labels of a part of it, and a drift alarm."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from gateway.settings import GatewaySettings, TeacherSettings
from ledger import drift_rows, keys, labels, releases
from ledger.artifacts import seal
from ledger.labels import Label
from ledger.prices import Price
from ledger.records import RequestRecord
from ledger.releases import Release
from ledger.requests import insert_records
from ledger.store import Store, now_ms, open_store
from router.model import RouterModel
from router.settings import RouterSettings
from serving.settings import StudentSettings
from stillroom.compose import build_gateway
from stillroom.settings import Settings
from tests.gateway_fixtures import RELEASE, go_live
from tests.unit.ledger.rows import row

__all__ = ("DAYS", "ROWS", "infeasible", "priced", "second_release", "with_traffic")

ROWS = 600
HOUR_MS = 3_600_000
DAYS = 4


@contextlib.contextmanager
def priced(home: Path) -> Iterator[SimpleNamespace]:
    """The application as the folder's ``composed``, with prices and exploration."""
    settings = Settings(
        home=str(home),
        gateway=GatewaySettings(requests_per_minute=0),
        teacher=TeacherSettings(price=Price(input=2.0, output=8.0)),
        student=StudentSettings(price=Price(input=0.1, output=0.4)),
        router=RouterSettings(explore_share=0.05),
    )
    store = open_store(settings.store_url)
    secrets = {scope: keys.create(store, scope, [scope], "test")[1] for scope in keys.SCOPES}
    yield SimpleNamespace(app=build_gateway(settings, store), store=store, secrets=secrets, home=home)
    store.close()


def with_traffic(store: Store, folder: Path, router: RouterModel, labelled: bool = True) -> None:
    """Scores spread evenly; half of what was decided is labelled, and one in twenty disagrees."""
    go_live(store, folder, router)
    now = now_ms()
    records = [_row(i, now) for i in range(ROWS)]
    insert_records(store, records)
    if labelled:
        insert_records(store, [_shadow(each) for each in records[::2] if each.reason == "hard"])
        found = [
            Label(
                request_id=each.id, source="explore" if each.route == "student" else "shadow", created_at=now,
                release_id=RELEASE, comparator="exact", agreement=float(i % 20 != 0), propensity=0.5,
            )
            for i, each in enumerate(records) if i % 2 == 0 and each.reason != "low_confidence"
        ]  # fmt: skip
        labels.add(store, found)
    data = {"drift": "score", "text": "the router's scores moved", "statistic": 0.31, "threshold": 0.2, "n": 500}
    drift_rows.raise_once(store, RELEASE, data, 1)


def infeasible(router: RouterModel) -> RouterModel:
    """A router of which nothing was shown."""
    own = replace(router.thresholds, hard=1.0, confident=1.0, feasible=False, agreement_lower_bound=1.0)
    return replace(router, thresholds=own)


def second_release(store: Store, folder: Path, router: RouterModel) -> str:
    """Another release, live now; its id."""
    router.save(folder / "router")
    digest = seal(folder, {})
    second = Release("rel-2", "candidate", now_ms(), None, RELEASE, None, str(folder), digest, {})
    releases.add(store, second)
    releases.promote(store, second.id, "test")
    return second.id


def _shadow(asked: RequestRecord) -> RequestRecord:
    """The student's answer beside the teacher's, with what its confidence was."""
    return row(
        f"{asked.id}-shadow", created_at=asked.created_at, release_id=RELEASE, route="student", reason="explore",
        confidence=0.2 + 0.5 * (asked.score or 0), propensity=0.5,
    )  # fmt: skip


def _row(i: int, now: int) -> RequestRecord:
    score = (i + 0.5) / ROWS
    confidence = 0.3 + 0.7 * ((i * 7) % ROWS) / ROWS
    reason = "hard" if score < 0.5 else "confident" if confidence >= 0.5 else "low_confidence"
    return row(
        f"r{i}", created_at=now - (i % (24 * DAYS)) * HOUR_MS - 1_000, release_id=RELEASE, reason=reason, score=score,
        route="student" if reason == "confident" else "teacher", novelty=0.1, stream=i % 3 == 0,
        confidence=None if reason == "hard" else confidence, prompt_tokens=400, completion_tokens=100,
    )  # fmt: skip
