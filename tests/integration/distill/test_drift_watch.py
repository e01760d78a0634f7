"""The watch over a real ledger: support questions as ever, then another language, then answers that are no good."""

import asyncio
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from distill.drift_watch import BLOCK, DriftWatch
from distill.passes import Pass, run_due
from distill.worker import run_worker
from ledger import events, labels, releases, schema, set_thresholds
from ledger.artifact_store import ARTIFACT, push
from ledger.artifacts import MANIFEST, seal
from ledger.events import Event
from ledger.labels import Label
from ledger.records import RequestRecord
from ledger.releases import Release
from ledger.requests import insert_records
from ledger.set_thresholds import SetThresholds
from ledger.store import Store, now_ms, open_store, sqlite_url
from router.classifier import Classifier
from router.classifier_training import fit_classifier
from router.features import RequestView
from router.reference import Reference, quantiles
from router.settings import RouterSettings
from stillroom.demo.desk import own_desk
from tests.integration.distill.worlds import World, until

HOUR = 3_600_000
GERMAN = (
    "wo bleibt mein Paket, ich warte seit {} Wochen darauf",
    "die Rechnung über {} Euro stimmt nicht, bitte prüfen Sie den Betrag",
    "das Gerät kam nach {} Tagen beschädigt an, was soll ich jetzt tun",
    "ich möchte meine Bestellung Nummer {} gern zurückgeben",
    "bitte löschen Sie mein Konto und alle {} Adressen darin",
)


def view(text: str) -> RequestView:
    return RequestView.from_body({"messages": [{"role": "user", "content": text}]})


@cache
def trained_once() -> tuple[Classifier, Reference]:
    """A classifier of some of the desk's questions, and what it says of others that it has not seen."""
    chance = random.Random(0)
    rows = chance.sample(own_desk().train, 1_000)
    views = [view(row.text) for row in rows]
    # a third of the questions are too hard for the student
    agreed = np.array([chance.random() < (0.95 if len(row.label) % 2 else 0.5) for row in rows])
    classifier = fit_classifier(views[:500], agreed[:500])
    scores, novelties = classifier.assess_many(views[500:])
    return classifier, Reference(500, quantiles(scores.tolist()), (), quantiles(novelties.tolist()))


@pytest.fixture
def traffic(tmp_path: Path) -> Iterator["Traffic"]:
    store = open_store(sqlite_url(tmp_path))
    yield Traffic(store, tmp_path, trained_once())
    store.close()


class Traffic:
    """A live release's requests, hour by hour up to now, as its router scores them."""

    def __init__(self, store: Store, folder: Path, trained: tuple[Classifier, Reference]) -> None:
        self.store, self.folder = store, folder
        self._classifier, reference = trained
        self._chance = random.Random(1)
        self.english = [row.text for row in own_desk().train]
        self.german = [text.format(number) for text in GERMAN for number in range(2, 12)]
        (folder / "router").mkdir()
        (folder / "router" / "router.json").write_bytes(msgspec.json.encode({"reference": reference}))
        digest = seal(folder, {})
        self.now = self.since = now_ms() - 100 * HOUR
        thresholds = {"agreement_target": 0.95, "student_share": 1.0, "feasible": True}
        releases.add(
            store,
            Release(
                "r1", "live", self.since, self.since, None, None, str(folder), digest, {"thresholds": thresholds}
            ),
        )

    def hour(self, texts: Sequence[str], requests: int = BLOCK) -> None:
        chosen = [view(self._chance.choice(texts)) for _ in range(requests)]
        scores, novelties = self._classifier.assess_many(chosen)
        records = [
            RequestRecord(
                id=f"q{self.now}-{i}",
                created_at=self.now + (i + 1) * HOUR // requests,
                route="student",
                reason="confident",
                release_id="r1",
                score=score,
                novelty=novelty,
            )
            for i, (score, novelty) in enumerate(zip(scores.tolist(), novelties.tolist(), strict=True))
        ]
        insert_records(self.store, records)
        self.now += HOUR

    def labelled_hour(self, agreement: float, requests: int = 100) -> None:
        start = self.now
        self.hour(self.english, requests)
        labels.add(
            self.store,
            [
                Label(
                    request_id=f"q{start}-{i}",
                    source="explore",
                    created_at=start + (i + 1) * HOUR // requests,
                    release_id="r1",
                    comparator="exact",
                    agreement=float(self._chance.random() < agreement),
                    propensity=0.005,
                )
                for i in range(requests)
            ],
        )

    def raised(self) -> list[Event]:
        return events.newest(self.store, kind="drift")[::-1]


def watch(traffic: Traffic, **settings: float) -> DriftWatch:
    return DriftWatch(traffic.store, RouterSettings(**settings), traffic.folder / "cache")


def test_traffic_that_goes_on_as_ever_raises_nothing_over_many_windows(traffic: Traffic):
    watching = watch(traffic)
    for _ in range(12):
        traffic.hour(traffic.english)
        assert watching.look(traffic.now) == []
    assert traffic.raised() == []


def test_traffic_in_another_language_raises_one_event_of_each_kind_that_shows_it(traffic: Traffic):
    watching = watch(traffic)
    traffic.hour(traffic.english)
    assert watching.look(traffic.now) == []
    for _ in range(4):
        traffic.hour(traffic.german)
        assert watching.look(traffic.now) != []
    raised = traffic.raised()
    kinds = [event.data["drift"] for event in raised]
    assert "novelty" in kinds
    assert "agreement" not in kinds
    assert len(kinds) == len(set(kinds)), "it is said once"
    assert {event.subject for event in raised} == {"r1"}
    novelty = raised[kinds.index("novelty")].data
    assert novelty["statistic"] > novelty["threshold"]
    assert novelty["n"] == BLOCK
    assert novelty["text"]


def test_a_look_at_too_few_requests_waits_for_more(traffic: Traffic):
    watching = watch(traffic)
    for _ in range(4):
        traffic.hour(traffic.german, BLOCK // 5)
        assert watching.look(traffic.now) == []
    traffic.hour(traffic.german, BLOCK // 5)
    assert watching.look(traffic.now) != []


def test_a_worker_that_starts_again_and_one_beside_it_say_nothing_twice(traffic: Traffic):
    traffic.hour(traffic.german, 2 * BLOCK)
    watch(traffic).look(traffic.now)
    said = len(traffic.raised())
    assert said > 0
    watch(traffic).look(traffic.now)
    traffic.hour(traffic.german)
    watch(traffic).look(traffic.now)
    assert len(traffic.raised()) == said


def test_answers_that_agree_less_than_promised_raise_an_event(traffic: Traffic):
    watching = watch(traffic)
    for _ in range(5):
        traffic.labelled_hour(0.97)
        watching.look(traffic.now)
    assert [event.data["drift"] for event in traffic.raised()] == []
    for _ in range(8):
        traffic.labelled_hour(0.8)
        watching.look(traffic.now)
    assert [event.data["drift"] for event in traffic.raised()] == ["agreement"]


def set_bars(traffic: Traffic) -> None:
    """As a person does who wants the student to answer more."""
    bars = SetThresholds(
        hard=0.1, confident=0.1, confident_end=0.1, sure=2.0, at=traffic.now, actor="ann", guaranteed=False
    )
    set_thresholds.put(traffic.store, "r1", bars, bars)


def test_by_thresholds_that_a_person_set_the_student_is_held_to_the_share_that_it_has(traffic: Traffic):
    with traffic.store.write() as connection:
        kept = {"agreement_target": 0.95, "student_share": 0.2, "feasible": True}
        connection.execute(sa.update(schema.releases).values(summary={"thresholds": kept}))
    watching = watch(traffic)
    for _ in range(8):
        traffic.labelled_hour(0.85)
        watching.look(traffic.now)
    assert traffic.raised() == [], "a fifth of the requests may disagree in a quarter of the cases"
    set_bars(traffic)
    traffic.labelled_hour(0.85)
    watching.look(traffic.now)
    assert watching._watched.agreement is None, "too few requests to know the share"
    for _ in range(12):
        traffic.labelled_hour(0.85)
        watching.look(traffic.now)
    assert [event.data["drift"] for event in traffic.raised()] == ["agreement"], "the student has them all now"


def test_files_that_are_in_a_store_only_are_fetched(traffic: Traffic, tmp_path: Path):
    here = tmp_path / "r1"
    here.mkdir()
    for name in ("router", MANIFEST):
        (tmp_path / name).rename(here / name)
    url = push(here, f"file://{tmp_path}/store")
    shutil.rmtree(here)
    with traffic.store.write() as connection:
        table = schema.releases
        summary = releases.get(traffic.store, "r1").summary | {ARTIFACT: url}
        connection.execute(sa.update(table).values(folder=str(here), summary=summary))
    traffic.hour(traffic.german)
    assert watch(traffic).look(traffic.now) != []


def test_agreement_read_again_from_the_ledger_is_what_it_was(traffic: Traffic):
    watching = watch(traffic)
    for _ in range(3):
        traffic.labelled_hour(0.9)
        watching.look(traffic.now)
    again = watch(traffic)
    again.look(traffic.now)
    wealth = [each._watched.agreement._wealth for each in (watching, again)]  # type: ignore[union-attr]
    assert np.allclose(*wealth)


def test_another_release_is_watched_from_when_it_went_live(traffic: Traffic, tmp_path: Path):
    watching = watch(traffic)
    traffic.hour(traffic.german, BLOCK - 1)
    watching.look(traffic.now)
    first = releases.get(traffic.store, "r1")
    releases.add(traffic.store, replace(first, id="r2", state="candidate", promoted_at=None))
    releases.promote(traffic.store, "r2", "test")
    assert watching.look(now_ms()) == []
    traffic.hour(traffic.german, 5)
    assert watching.look(now_ms()) == [], "r1's requests were counted for r2"


@pytest.mark.parametrize("missing", ["release", "reference", "thresholds"])
def test_what_cannot_be_watched_is_left_alone(traffic: Traffic, tmp_path: Path, missing: str):
    traffic.hour(traffic.german)
    if missing == "reference":
        (tmp_path / "router" / "router.json").write_bytes(b"{}")
    with traffic.store.write() as connection:
        if missing == "release":
            connection.exec_driver_sql("UPDATE releases SET state = 'retired'")
        if missing == "thresholds":
            connection.exec_driver_sql("UPDATE releases SET summary = '{}'")
    found = watch(traffic).look(traffic.now)
    assert bool(found) == (missing == "thresholds")


def test_no_alarms_at_all_are_an_answer_too(traffic: Traffic):
    traffic.hour(traffic.german)
    assert watch(traffic, drift_alarms_per_month=0).look(traffic.now) == []
    assert traffic.raised() == []


# the worker's list of passes


async def test_a_pass_runs_when_it_is_due_and_a_store_that_is_away_does_not_stop_the_others():
    ran: list[str] = []

    async def failing() -> None:
        ran.append("failing")
        raise OperationalError("SELECT", {}, Exception("away"))

    async def fine() -> None:
        ran.append("fine")

    passes = [Pass("failing", failing, every_s=60), Pass("fine", fine, every_s=0)]
    await run_due(passes)
    await run_due(passes)
    assert ran == ["failing", "fine", "fine"]


async def test_a_worker_with_nothing_to_do_watches(world: World):
    traffic = Traffic(world.store, world.home, trained_once())
    traffic.hour(traffic.german)
    stop = asyncio.Event()
    worker = asyncio.create_task(run_worker(world.context(), stop))
    try:
        assert await until(traffic.raised, seconds=30)
    finally:
        stop.set()
        await worker
