"""``distill reject`` and ``distill triggers`` as a shell runs them."""

import json
from pathlib import Path

import pytest

from ledger import jobs, releases
from ledger.releases import Release
from ledger.store import open_store, sqlite_url


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_HOME", str(tmp_path))
    return tmp_path


def test_a_waiting_job_is_rejected_with_its_release(stillroom, home: Path):
    store = open_store(sqlite_url(home))
    job = jobs.create(store, "manual", "ann", {})
    releases.add(store, Release("r1", "candidate", 1, None, None, job.id, "/none", "0", {}))
    assert stillroom("distill", "reject", job.id)[0] == 1
    jobs.claim(store, "w")
    jobs.set_state(store, job.id, "w", "awaiting_approval", release_id="r1")
    answer = stillroom("distill", "reject", job.id, "--why", "too curt")
    assert answer == (0, f"job {job.id} and release r1 are rejected\n", "")
    assert (jobs.get(store, job.id).error, releases.get(store, "r1").state) == ("too curt", "rejected")
    assert stillroom("distill", "approve", job.id)[2].startswith(f"stillroom: job {job.id} is rejected")
    store.close()


def test_each_trigger_is_shown_with_how_far_it_is_and_what_holds_it(stillroom, home: Path, monkeypatch):
    for name, value in {"SCHEDULE": "every 7d", "NEW_ANSWERS": "500", "WINDOWS": '["mon 03:00-03:01"]'}.items():
        monkeypatch.setenv(f"STILLROOM_DISTILL__TRIGGERS__{name}", value)
    rows = json.loads(stillroom("distill", "triggers", "--json")[1])
    shown = {row["trigger"]: (row["state"], row["value"], row["threshold"]) for row in rows}
    assert shown["volume"] == ("waiting", 0, 500)
    assert (shown["drift"][0], shown["escalation"][0]) == ("off", "off")
    assert shown["schedule"][0] in ("due", "held")
    assert "schedule" in stillroom("distill", "triggers")[1]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SCHEDULE", "hourly", "write `every 7d`"),
        ("SCHEDULE", "0 25 * * *", "no hour of a crontab: from 0 to 23"),
        ("WINDOWS", '["22-6"]', "write `22:00-06:00`"),
        ("ESCALATION_RISE", "1.5", "must be between 0 and 1"),
        ("COMPUTE_HOURS_MONTH", "nan", "must be between"),
    ],
)
def test_a_trigger_that_means_nothing_is_a_settings_error(stillroom, home: Path, monkeypatch, name, value, says):
    monkeypatch.setenv(f"STILLROOM_DISTILL__TRIGGERS__{name}", value)
    status, out, err = stillroom("distill", "triggers")
    assert (status, out, err.count("\n"), says in err) == (2, "", 1, True)
