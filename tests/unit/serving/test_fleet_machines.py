"""Fleets of several machines of one store: what one does follows from what all have, as it does for gateways."""

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.budgets import Budgets
from gateway.elsewhere import Elsewhere
from gateway.live import Live
from ledger import releases, replicas
from ledger.artifact_store import ARTIFACT, push
from ledger.artifacts import folder_hash
from ledger.releases import Release
from ledger.retention import amend_summary
from ledger.spending import SpendReader
from ledger.store import Store, now_ms, open_store, sqlite_url
from ledger.student_hours import seconds_by_hour
from serving.fleet import Fleet
from serving.settings import StudentSettings
from serving.students import AGAIN_S, Student

HERE, THERE = "10.0.0.5", "10.0.0.6"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The release r2 was promoted over r1."""
    opened = open_store(sqlite_url(tmp_path))
    for name, parent in (("r1", None), ("r2", "r1")):
        releases.add(opened, Release(name, "candidate", now_ms(), None, parent, None, str(tmp_path), "0" * 64, {}))
        releases.promote(opened, name, "test")
    yield opened
    opened.close()


def fleet(store: Store, folder: Path, address: str, **ready: int) -> Fleet:
    """A machine's, with so many ready students of each release, of which the ledger was told."""
    made = Fleet(store, StudentSettings(address=address, replicas=2), folder / "logs")
    for release, count in ready.items():
        for number in range(count):
            made._students.running[f"{release}.{number}"] = Student(release, folder, state="ready")
    made._report(list(made._rows(None)))
    return made


@pytest.mark.parametrize(
    ("here", "there", "kept"),
    [
        ({"r1": 1, "r2": 1}, {"r1": 3}, True),  # all of this machine's are ready, a quarter of everybody's
        ({"r1": 1}, {"r1": 1, "r2": 1}, False),  # the other one's do, before one of this machine's is ready
        ({"r1": 2, "r2": 2}, {"r1": 2}, False),
        ({"r1": 2}, {}, True),
        ({"r1": 2}, {"r2": 1}, False),
        ({"r2": 1}, {"r1": 4}, False),  # it has none that it could keep, and starts none
    ],
)
async def test_the_release_before_is_kept_where_it_is_as_long_as_gateways_ask_it(
    store: Store, tmp_path: Path, here: dict[str, int], there: dict[str, int], kept: bool
):
    asking, _ = fleet(store, tmp_path, HERE, **here), fleet(store, tmp_path, THERE, **there)
    live = releases.live(store)
    before = await asking._kept_until_taken_over(live)
    assert (before is not None and before.id == "r1") == kept
    running = replicas.list_replicas(store)
    gateway = Live(store, Elsewhere(StudentSettings()), Budgets(SpendReader(store)), tmp_path)
    answering, urls, _ = gateway._answering(live, running)
    total = {name: here.get(name, 0) + there.get(name, 0) for name in ("r1", "r2")}
    assert len(urls) == total[answering.id]
    if "r1" in here:
        assert (answering.id == "r1") == kept


async def test_what_a_machine_had_that_went_without_a_word_holds_nothing_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here = fleet(store, tmp_path, HERE, r1=1, r2=1)
    fleet(store, tmp_path, THERE, r1=3)
    assert await here._kept_until_taken_over(releases.live(store)) is not None
    later = now_ms() + replicas.STALE_MS + 1
    monkeypatch.setattr(replicas, "now_ms", lambda: later)
    here._report(list(here._rows(None)))
    assert await here._kept_until_taken_over(releases.live(store)) is None
    assert {row.id for row in replicas.list_replicas(store)} == {f"{HERE}-{n}" for n in ("keeper", "r1.0", "r2.0")}


def test_machines_of_one_name_have_rows_of_their_own_and_their_hours_add(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(socket, "gethostname", lambda: "stillroom-student-in-the-eu-cluster-0")
    longest = "fd00:1111:2222:3333:4444:5555:6666:7777"
    fleets = [fleet(store, tmp_path, address, r2=1) for address in (HERE, longest, "127.0.0.1")]
    ids = {row.id for row in replicas.list_replicas(store)}
    hosts = (HERE, longest, "stillroom-student-in-the-eu-cl")
    assert ids == {f"{host}-{name}" for host in hosts for name in ("keeper", "r2.0")}
    assert len(f"{longest}-r20261124-3fa2c1.256") <= 64, "what the column takes"
    for each, seconds in zip(fleets, (10, 20, 40), strict=True):
        each._ran = {"r2": seconds}
        each._tell_hours()
    assert sum(seconds_by_hour(store).values()) == 70


async def test_a_candidate_that_another_machine_has_not_shared_yet_is_served_once_it_has(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made, shared = tmp_path / "theirs" / "r3", tmp_path / "bucket"
    (made / "student").mkdir(parents=True)
    (made / "student" / "config.json").write_text("{}")
    digest = folder_hash(made / "student")
    releases.add(store, Release("r3", "candidate", now_ms(), None, "r2", None, "/not/here/r3", digest, {}))
    students = fleet(store, tmp_path, HERE)._students
    monkeypatch.setattr(students, "keep", lambda key, student: started.append((key, student.weights)))
    started: list[tuple[str, Path]] = []
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("serving.students.time", SimpleNamespace(monotonic=lambda: clock.now))
    await students.start(releases.get(store, "r3"))
    assert students.is_refused("r3") and not started
    clock.now += AGAIN_S
    assert not students.is_refused("r3")
    await students.start(releases.get(store, "r3"))
    clock.now += AGAIN_S
    assert students.is_refused("r3"), "the pause grows"
    amend_summary(store, "r3", {ARTIFACT: push(made, shared.as_uri())})
    await students.start(releases.get(store, "r3"))
    ((key, weights),) = started
    assert key == "r3"
    assert weights.is_relative_to(tmp_path / "cache")


async def test_files_of_this_machine_that_are_not_what_was_released_are_refused_for_good(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "r3" / "student").mkdir(parents=True)
    releases.add(store, Release("r3", "candidate", now_ms(), None, "r2", None, str(tmp_path / "r3"), "0" * 64, {}))
    students = fleet(store, tmp_path, HERE)._students
    await students.start(releases.get(store, "r3"))
    monkeypatch.setattr("serving.students.time", SimpleNamespace(monotonic=lambda: 1e9))
    assert students.is_refused("r3") and not students.running
