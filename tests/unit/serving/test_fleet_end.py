"""A fleet that ends: gateways are told before a server is, since one that drains refuses what comes."""

import asyncio
from pathlib import Path

import pytest

from ledger import replicas
from ledger.store import open_store, sqlite_url
from serving import fleet
from serving.fleet import Fleet
from serving.settings import StudentSettings
from serving.students import Student, Students


async def test_students_are_draining_in_the_ledger_before_any_of_them_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = open_store(sqlite_url(tmp_path))
    kept = Fleet(store, StudentSettings(replicas=2), tmp_path / "logs")
    for key in ("r1", "r1.2"):
        kept._students.running[key] = Student("r1", tmp_path, state="ready")
    kept._report(list(kept._rows(None)))
    assert sorted(row.state for row in replicas.list_replicas(store)) == ["keeper", "ready", "ready"]
    seen: list[list[str]] = []

    async def end(_self: Students) -> None:
        seen.append(sorted(row.state for row in replicas.list_replicas(store)))

    monkeypatch.setattr(Students, "end", end)
    monkeypatch.setattr(fleet, "TURN_S", 0.01)
    stop = asyncio.Event()
    stop.set()
    await kept.run(stop)
    assert seen == [["draining", "draining", "keeper"]]
    assert replicas.list_replicas(store) == []
    store.close()
