"""``ledger archive`` as a shell sees it."""

import json
import sys

import pytest

from ledger.requests import expire_contents, insert_records
from ledger.rollups import DAY_MS
from ledger.store import now_ms
from tests.unit.ledger.rows import row


@pytest.fixture
def old(ledger):
    insert_records(ledger, [row(f"r{number}", created_at=20_000 * DAY_MS + number) for number in range(30)])
    insert_records(ledger, [row("new", created_at=now_ms())])
    return ledger


def test_each_day_of_a_table_is_told_of(run, old, tmp_path):
    status, out, err = run("ledger", "archive", "--before", "90d", "--to", str(tmp_path / "a"))
    assert (status, err) == (0, "")
    assert [line.split() for line in out.strip().splitlines()] == [
        ["table", "day", "rows", "written", "deleted"],
        ["requests", "2024-10-04", "30", "30", "0"],
    ]


def test_programs_get_json_and_deletion_is_asked_for(run, old, tmp_path):
    expire_contents(old, now_ms())
    told = ["--to", str(tmp_path / "a"), "--delete", "--json"]
    found = json.loads(run("ledger", "archive", "--before", "2024-10-05", *told)[1])
    assert found == [{"table": "requests", "day": "2024-10-04", "rows": 30, "written": 30, "deleted": 30}]
    assert json.loads(run("ledger", "archive", "--before", "2024-10-05", *told)[1]) == []


def test_a_ledger_that_is_young_says_so(run, ledger, tmp_path):
    assert run("ledger", "archive", "--before", "90d", "--to", str(tmp_path))[:2] == (0, "no rows are that old\n")


@pytest.mark.parametrize(
    ("before", "says"),
    [
        pytest.param("1h", "too young", id="of today"),
        pytest.param("2999-01-01", "too young", id="to come"),
        pytest.param("yesterday", "no time", id="no time"),
    ],
)
def test_a_time_that_cannot_be_is_a_usage_error(run, old, tmp_path, before, says):
    status, _, err = run("ledger", "archive", "--before", before, "--to", str(tmp_path / "a"))
    assert status == 2
    assert says in err


def test_a_place_that_cannot_be_written_is_one_line(run, old, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run("ledger", "archive", "--before", "90d", "--to", str(tmp_path / "file"))
    assert (status, len(err.strip().splitlines())) == (1, 1)
    assert "cannot be used" in err


def test_without_its_extra_it_says_which(run, old, tmp_path, monkeypatch):
    for name in ("ledger.archive", "ledger.archive_files"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = run("ledger", "archive", "--before", "90d", "--to", str(tmp_path))
    assert status == 1
    assert "pip install 'stillroom[archive]'" in err
