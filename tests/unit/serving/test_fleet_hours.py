"""A fleet counts how long its processes run, by what they serve, and tells the ledger now and then."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ledger.store import Store, open_store, sqlite_url
from ledger.student_hours import seconds_by_hour
from serving import fleet
from serving.fleet import Fleet
from serving.settings import StudentSettings
from serving.students import Student


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


def test_every_process_counts_from_look_to_look_and_is_told_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(fleet, "time", SimpleNamespace(monotonic=lambda: clock.now))
    kept = Fleet(store, StudentSettings(), tmp_path / "logs")
    running = kept._students.running
    kept._count_hours()
    for now, processes in ((110.0, ("r1",)), (115.0, ("r1", "r1+")), (118.0, ())):
        running.clear()
        running.update({key: Student(key.removesuffix("+"), tmp_path) for key in processes})
        clock.now = now
        kept._count_hours()
    kept._tell_hours()
    kept._tell_hours()
    assert sum(seconds_by_hour(store).values()) == 10 + 2 * 5
