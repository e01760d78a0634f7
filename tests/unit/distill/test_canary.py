"""What the watch makes of a canary's figures, over a real ledger: promoted, taken back, or looked at again."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from distill.canary import CanaryWatch, Look
from distill.canary_settings import CanarySettings
from distill.going_live import go_live
from ledger import canaries, events, jobs, releases, schema
from ledger.canaries import Trial
from ledger.canary_rows import NOT_KEPT
from ledger.labels import Label
from ledger.records import RequestRecord
from ledger.requests import insert_records
from ledger.store import Store, now_ms, open_store, sqlite_url
from router.settings import RouterSettings
from tests.gateway_fixtures import wait_until

SETTINGS = CanarySettings(min_requests=400)
ROUTER = RouterSettings(explore_share=0.5, canary_explore_share=0.5)


@dataclass(frozen=True)
class Behaviour:
    """How the requests of a release go."""

    agreement: float = 0.95
    failed: float = 0.002
    escalated: float = 0.2
    ms: float = 200.0


GOOD = Behaviour()


@dataclass
class Traffic:
    """Requests of a champion ``old`` and of ``new``, which is tried."""

    store: Store
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def send(self, release_id: str, n: int, how: Behaviour = GOOD, shadow: bool = False, **values: Any) -> None:
        insert_records(self.store, [self._one(release_id, how, shadow, values) for _ in range(n)])

    def _one(self, release_id: str, how: Behaviour, shadow: bool, values: dict[str, Any]) -> RequestRecord:
        request_id = f"r{next(self._numbers)}" + ("-canary" if shadow else "")
        fails, escalates, labelled = self.rng.random(3) < (how.failed, how.escalated, 0.5)
        reason = "student_down" if fails else "hard" if escalates else "confident"
        label = Label(
            request_id=request_id,
            source="canary" if shadow else "explore",
            created_at=now_ms(),
            release_id=release_id,
            comparator="exact",
            agreement=float(self.rng.random() < how.agreement),
            propensity=0.5,
        )
        usual: dict[str, Any] = {
            "created_at": now_ms(),
            "route": "student" if shadow or reason == "confident" else "teacher",
            "reason": "explore" if shadow else reason,
            "status": 502 if shadow and fails else 200,
            "error_code": NOT_KEPT if shadow and escalates else None,
            "release_id": release_id,
            "score": 0.9,
            "latency_ms": float(self.rng.lognormal(np.log(how.ms), 0.3)),
            "label": label if labelled and reason == "confident" else None,
        }
        return RequestRecord(id=request_id, **(usual | values))


@pytest.fixture
def traffic(tmp_path: Path) -> Iterator[Traffic]:
    store = open_store(sqlite_url(tmp_path))
    for at, name in enumerate(("old", "new", "third")):
        releases.add(store, releases.Release(name, "candidate", at, None, None, None, f"/{name}", "0" * 64, {}))
    releases.promote(store, "old", "test")
    yield Traffic(store)
    store.close()


def begin(traffic: Traffic, mode: canaries.Mode = "canary") -> canaries.Canary:
    return canaries.start(traffic.store, "new", Trial(mode, 0.1), "test")


def look(traffic: Traffic, **changes: Any) -> Look:
    found = CanaryWatch(traffic.store, msgspec.structs.replace(SETTINGS, **changes), ROUTER).look()
    assert found is not None
    return found


def state(traffic: Traffic, release_id: str) -> str:
    return releases.get(traffic.store, release_id).state


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_one_that_is_as_good_is_promoted_by_itself(traffic: Traffic, mode: canaries.Mode):
    begin(traffic, mode)
    traffic.send("old", 6_000)
    traffic.send("new", 300, shadow=mode == "shadow")
    assert look(traffic).decision == "go_on"
    assert state(traffic, "new") == "canary"
    traffic.send("new", 5_000, shadow=mode == "shadow")
    found = look(traffic)
    assert found.decision == "promote", found
    assert (state(traffic, "new"), state(traffic, "old")) == ("live", "retired")
    ended = canaries.newest(traffic.store)
    assert ended is not None
    assert (ended.outcome, msgspec.convert(ended.figures, Look)) == ("promoted", found)


@pytest.mark.parametrize("mode", ["canary", "shadow"])
@pytest.mark.parametrize(
    ("rule", "how"),
    [
        ("agreement", Behaviour(agreement=0.6)),
        ("errors", Behaviour(failed=0.1)),
        ("escalation", Behaviour(escalated=0.6)),
        ("latency", Behaviour(ms=800.0)),
    ],
)
def test_one_that_is_worse_in_any_way_is_taken_back_by_itself(
    traffic: Traffic, mode: canaries.Mode, rule: str, how: Behaviour
):
    begin(traffic, mode)
    traffic.send("old", 6_000)
    traffic.send("new", 600, how, shadow=mode == "shadow")
    found = look(traffic, min_requests=100_000)
    assert (found.decision, [each.name for each in found.rules if each.broken]) == ("roll_back", [rule])
    assert rule.replace("latency", "slow answers") in found.why
    assert (state(traffic, "new"), state(traffic, "old")) == ("rolled_back", "live")
    (event,) = events.newest(traffic.store, kind="canary")
    assert (event.subject, event.data["outcome"], event.data["text"]) == ("new", "rolled_back", found.why)


def test_a_promotion_waits_for_its_least_number_of_requests(traffic: Traffic):
    begin(traffic)
    traffic.send("old", 6_000)
    traffic.send("new", 5_000)
    assert look(traffic, min_requests=6_000).why == "too few requests"
    assert state(traffic, "new") == "canary"


@pytest.mark.parametrize(("undecided", "ends"), [("rollback", "rolled_back"), ("promote", "live")])
def test_one_that_stays_undecided_ends_as_the_settings_say(traffic: Traffic, undecided: str, ends: str):
    begun = begin(traffic)
    traffic.send("new", 20)
    assert look(traffic, undecided=undecided).decision == "go_on"
    with traffic.store.write() as connection:
        earlier = begun.started_at - int(SETTINGS.max_hours * 3_600_000) - 1
        connection.execute(schema.canaries.update().values(started_at=earlier))
    assert "undecided after 72 hours" in look(traffic, undecided=undecided).why
    assert state(traffic, "new") == ends


def test_only_what_a_router_decided_since_the_beginning_counts(traffic: Traffic):
    traffic.send("old", 50, created_at=1_000)
    begin(traffic)
    traffic.send("old", 30)
    traffic.send("old", 20, reason="pinned", score=None)
    traffic.send("third", 20)
    traffic.send("new", 10)
    assert look(traffic).requests == (10, 30)


def test_in_a_shadow_no_request_counts_on_both_sides(traffic: Traffic):
    begin(traffic, "shadow")
    traffic.send("old", 30)
    row = RequestRecord(
        id="r3-canary", created_at=now_ms(), route="student", reason="explore", release_id="new", score=0.5
    )
    insert_records(traffic.store, [row])
    assert look(traffic).requests == (1, 29)


def test_one_that_ended_meanwhile_is_left_alone(traffic: Traffic):
    watch = CanaryWatch(traffic.store, SETTINGS, ROUTER)
    assert watch.look() is None
    begun = begin(traffic)
    canaries.finish(traffic.store, begun, "stopped", "ann")
    assert watch.look() is None
    assert state(traffic, "new") == "rolled_back"


def a_job(store: Store, release_id: str, in_state: str) -> jobs.Job:
    job = jobs.create(store, "manual", "test", {})
    jobs.claim(store, "w", job.id)
    jobs.set_state(store, job.id, "w", in_state, release_id=release_id)
    return jobs.get(store, job.id)


def context_of(store: Store, settings: CanarySettings) -> Any:
    """As much of a worker's context as the last step of a job reads."""

    async def enter(job: jobs.Job, in_state: str) -> None:
        jobs.set_state(store, job.id, "w", in_state)

    distill = SimpleNamespace(canary=settings)
    return SimpleNamespace(store=store, owner="w", distill=distill, enter=enter, on_progress=lambda *_: None)


def test_a_release_that_passed_its_gate_is_tried_and_the_next_one_after_it(traffic: Traffic):
    context, store = context_of(traffic.store, SETTINGS), traffic.store
    first, second = a_job(store, "new", "evaluating"), a_job(store, "third", "evaluating")
    assert asyncio.run(go_live(context, first, "new")) == "canary"
    assert asyncio.run(go_live(context, second, "third")) == "awaiting_approval"
    open_ = canaries.current(store)
    assert open_ is not None
    canaries.finish(store, open_, "stopped", "ann")
    CanaryWatch(store, SETTINGS, ROUTER).look()
    assert canaries.current(store) is None
    CanaryWatch(store, SETTINGS, ROUTER, approves=True).look()
    assert (jobs.get(store, first.id).state, jobs.get(store, second.id).state) == ("rolled_back", "canary")
    assert state(traffic, "third") == "canary"


def test_where_nothing_is_tried_it_goes_live_at_once(traffic: Traffic):
    context = context_of(traffic.store, CanarySettings(mode="off"))
    job = a_job(traffic.store, "new", "evaluating")
    assert asyncio.run(go_live(context, job, "new")) == "live"
    assert (state(traffic, "new"), jobs.get(traffic.store, job.id).state) == ("live", "live")


def test_the_watch_outlives_a_store_that_is_away(traffic: Traffic, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("distill.canary.EVERY_S", 0.01)
    begin(traffic)
    traffic.send("old", 1_000)
    traffic.send("new", 600, Behaviour(agreement=0.3))
    with traffic.store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE canaries RENAME TO away")

    async def watched() -> None:
        task = asyncio.create_task(CanaryWatch(traffic.store, SETTINGS, ROUTER).watch())
        await asyncio.sleep(0.2)
        with traffic.store.write() as connection:
            connection.exec_driver_sql("ALTER TABLE away RENAME TO canaries")
        await asyncio.to_thread(wait_until, lambda: canaries.current(traffic.store) is None, 20)
        task.cancel()

    asyncio.run(asyncio.wait_for(watched(), 30))
    assert state(traffic, "new") == "rolled_back"
