"""``stillroom distill run`` keeps students itself, once nobody else does."""

import asyncio
from pathlib import Path

import pytest

from ledger import jobs, replicas
from ledger.replicas import Replica
from ledger.store import Store
from stillroom.commands import distill
from stillroom.settings import Settings
from tests.gateway_fixtures import wait_until

THEIRS = Replica("another-keeper", "", "", "keeper", 0)


def keepers(store: Store) -> list[str]:
    return [each.id for each in replicas.list_replicas(store) if each.state == "keeper"]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "KEEPER_S", 0.05)


async def test_students_are_kept_as_soon_as_the_row_of_a_killed_keeper_is_stale(home: Path, ledger: Store):
    replicas.report(ledger, THEIRS)
    stop = asyncio.Event()
    keeping = asyncio.create_task(distill._keep_students(Settings(home=str(home)), ledger, stop))
    await asyncio.sleep(0.3)
    assert keepers(ledger) == [THEIRS.id]
    replicas.remove(ledger, THEIRS.id)
    await asyncio.to_thread(wait_until, lambda: bool(keepers(ledger)), 30)
    stop.set()
    await keeping
    assert keepers(ledger) == []


async def test_while_another_process_keeps_them_the_end_of_the_job_is_the_end_of_waiting(home: Path, ledger: Store):
    replicas.report(ledger, THEIRS)
    stop = asyncio.Event()
    keeping = asyncio.create_task(distill._keep_students(Settings(home=str(home)), ledger, stop))
    await asyncio.sleep(0.1)
    stop.set()
    await keeping
    assert keepers(ledger) == [THEIRS.id]


def test_it_makes_no_job_where_its_students_could_not_listen(run, ledger: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STILLROOM_STUDENT__ADDRESS", "198.51.100.77")
    monkeypatch.delenv("STUDENT_API_KEY", raising=False)
    status, out, err = run("distill", "run")
    assert (status, out) == (2, "")
    assert "off loopback students ask for a key" in err
    assert jobs.newest(ledger) is None
