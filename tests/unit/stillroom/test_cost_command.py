"""``cost plan`` as a shell sees it."""

import json
from pathlib import Path

import pytest
import rich_click as click
import sqlalchemy as sa
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import schema
from ledger.requests import insert_records
from ledger.store import now_ms, open_store, sqlite_url
from stillroom.cli import cli
from stillroom.commands.common import CommandFailed
from tests.unit.ledger.rows import row

EXAMPLE = (
    "--requests-per-day 50000 --teacher-cost 0.015 --student-cost 0.002 --teacher-share 0.06 --training-cost 2000"
)
DAY_MS = 86_400_000


def run(words: str, home: Path | None = None) -> Result:
    environment = {"STILLROOM_HOME": str(home)} if home else {}
    return CliRunner().invoke(cli, ["cost", "plan", *words.split()], env=environment)


def figures(words: str, home: Path | None = None) -> dict:
    result = run(f"{words} --json", home)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.mark.parametrize(
    ("words", "accounting", "after"), [("", "router first", 4_170), ("--cascade", "cascade", 4_350)]
)
def test_the_documented_example_pays_within_the_first_week(words: str, accounting: str, after: int):
    found = figures(f"{EXAMPLE} {words}")
    assert (found["monthly_before"], found["monthly_after"], found["saving"]) == (22_500, after, 22_500 - after)
    assert found["accounting"] == accounting
    assert found["pays"]
    assert 3 < found["payback_days"] < 7


def test_a_table_and_a_sentence_for_people():
    output = run(EXAMPLE).output
    assert "4,170.00" in output
    assert "router first" in output
    assert "paid for itself after 3.3 days" in output
    assert "cost 0.002 instead of 0.015 (86.7% less)" in " ".join(output.split())


def test_training_that_is_to_come_back_in_time_raises_the_break_even_price():
    found = figures(f"{EXAMPLE} --months 1")
    assert found["break_even_teacher_cost"] == pytest.approx(0.002 + 2_000 / (50_000 * 30 * 0.94))
    assert "within 1 month" in found["why"]


def test_a_plan_that_does_not_pay_says_why():
    found = figures("--requests-per-day 10 --teacher-cost 0.001 --student-cost 0.002 --teacher-share 0.1")
    assert found["payback_days"] is None
    assert not found["pays"]
    assert found["why"].startswith("Distilling does not pay")
    assert found["saving"] < 0
    assert (
        "never" in run("--requests-per-day 10 --teacher-cost 0.001 --student-cost 0.002 --teacher-share 0.1").output
    )


@pytest.mark.parametrize(
    "words",
    [
        "--teacher-cost -1",
        "--teacher-cost nan",
        "--student-cost inf",
        "--student-cost 1e999999",
        "--teacher-share 1.01",
        "--teacher-share -0.1",
        "--requests-per-day 0",
        "--requests-per-day many",
        "--training-cost=-5",
        "--months 0",
    ],
)
def test_what_cannot_be_is_a_usage_error_of_one_line(words: str):
    result = run(f"{EXAMPLE} {words}")
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_an_option_that_is_missing_is_named():
    result = run("--requests-per-day 5 --teacher-cost 1")
    assert result.exit_code == 2
    assert "--student-cost, --teacher-share missing" in " ".join(result.output.replace("│", " ").split())


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 10**12),
    st.decimals("0", "1000000000000", places=12),
    st.decimals("0", "1", places=12),
    st.decimals("0", "1000000000000", places=2),
)
def test_any_plan_within_the_bounds_is_answered(requests, cost, share, training):
    words = f"--requests-per-day {requests} --teacher-cost {cost:f} --student-cost 0.000000000001"
    found = figures(f"{words} --teacher-share {share:f} --training-cost {training:f} --months 1200")
    assert found["monthly_before"] == pytest.approx(30 * requests * float(cost), rel=1e-9, abs=1e-8)


def spent(request_id: str, at: int, route: str, cost: float, baseline: float, reason: str = "hard"):
    return row(
        request_id,
        created_at=at,
        route=route,
        reason=reason,
        cost_nano=int(cost * 1e9),
        baseline_nano=int(baseline * 1e9),
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Ten days, each with a request to the teacher and more and more to the student."""
    now = now_ms()
    with_days = [
        spent(f"{day}-{i}", now - day * DAY_MS, "student" if i else "teacher", 0.1 if i else 2, 2)
        for day in range(10)
        for i in range(10 + day)
    ]
    beside = spent("b-explore", now - 3 * DAY_MS, "teacher", 2, 0, "explore")
    store = open_store(sqlite_url(tmp_path))
    insert_records(store, [*with_days, beside])
    store.close()
    return tmp_path


def test_the_hours_that_servers_ran_are_what_the_student_costs_where_an_hour_has_a_price(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STILLROOM_STUDENT__GPU_HOUR_COST", "2.10")
    by_price = figures("--from-ledger", home)
    assert (by_price["student_cost"], by_price["gpu_hours"]) == (0.1, None), "no hour of a server is recorded yet"
    store = open_store(sqlite_url(home))
    hour = now_ms() // 3_600_000 * 3_600_000
    with store.write() as connection:
        ran = [{"hour": hour - n * 3_600_000, "release_id": "r1", "seconds": 1_800.0} for n in range(8 * 24)]
        connection.execute(sa.insert(schema.student_hours), ran)
    store.close()
    found = figures("--from-ledger", home)
    answered = sum(9 + day for day in range(8))
    assert 7.9 < found["days"] <= 8
    assert found["gpu_hours"] == 96
    assert found["student_cost"] == pytest.approx(96 * 2.10 / answered, rel=1e-6)
    assert found["student_cost_by_price"] == 0.1
    on_teacher = 2 * (8 + 1)
    assert found["monthly_after"] == pytest.approx(30 * (on_teacher + 96 * 2.10) / found["days"], rel=1e-6)
    low, high = found["intervals"]["student_cost"]
    assert low < found["student_cost"] < high
    assert "by its tokens' price instead" in run("--from-ledger", home).output
    assert figures("--from-ledger --student-cost 0.5", home)["student_cost"] == 0.5


def test_the_ledger_says_what_was_spent_and_saved(home: Path):
    found = figures("--from-ledger --training-cost 100", home)
    requests, days = sum(10 + day for day in range(10)), found["days"]
    assert found["accounting"] == "measured"
    assert 9 < days < 10
    assert found["requests_per_day"] == pytest.approx(requests / days)
    assert found["teacher_share"] == pytest.approx(10 / requests)
    assert (found["teacher_cost"], found["student_cost"]) == (2, 0.1)
    assert found["monthly_before"] == pytest.approx(30 * 2 * requests / days)
    assert found["monthly_after"] == pytest.approx(30 * (2 * 11 + 0.1 * (requests - 10)) / days)
    assert found["monthly_beside"] == pytest.approx(30 * 2 / days)
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high
    assert found["intervals"]["saving"][0] < found["intervals"]["saving"][1]
    assert found["intervals"]["payback_days"][0] > 0


def test_the_ledgers_table_shows_the_intervals(home: Path):
    output = run("--from-ledger --training-cost 100", home).output
    assert "95%" in output
    assert "measured" in output
    assert "unasked" in output


def test_a_price_given_makes_a_plan_of_the_ledgers_traffic(home: Path):
    measured, found = figures("--from-ledger", home), figures("--from-ledger --teacher-cost 1 --cascade", home)
    assert found["accounting"] == "cascade"
    assert found["monthly_before"] == pytest.approx(measured["monthly_before"] / 2)
    assert found["student_cost"] == 0.1
    assert found["monthly_beside"] is None


def test_a_young_ledger_has_no_intervals_and_says_so(tmp_path: Path):
    store = open_store(sqlite_url(tmp_path))
    insert_records(store, [spent("t", now_ms(), "teacher", 2, 2), spent("s", now_ms(), "student", 1, 2)])
    store.close()
    assert figures("--from-ledger", tmp_path)["intervals"] is None
    assert "No intervals" in run("--from-ledger", tmp_path).output


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no request of the last 30 days"),
        ([("t", "teacher", 2, 2)], "give --student-cost and --teacher-share"),
        ([("t", "teacher", 0, 0), ("s", "student", 0, 0)], "set [teacher.price]"),
    ],
)
def test_a_ledger_that_cannot_tell_says_what_is_missing(rows, message: str, tmp_path: Path):
    store = open_store(sqlite_url(tmp_path))
    insert_records(store, [spent(name, now_ms(), *values) for name, *values in rows])
    store.close()
    result = run("--from-ledger", tmp_path)
    assert isinstance(result.exception, CommandFailed)
    assert message in str(result.exception)


def test_measured_costs_are_not_to_be_counted_as_a_cascade(home: Path):
    result = run("--from-ledger --cascade", home)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit | click.UsageError)
