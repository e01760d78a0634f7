"""What the gateway and the pages are told of ``[distill]``."""

from decimal import Decimal

import msgspec
import pytest

from distill.settings import DistillSettings
from distill.trigger_settings import TriggerSettings
from gateway.settings import TeacherSettings
from ledger import jobs
from ledger.records import NANO
from ledger.requests import HOUR_MS, insert_records
from ledger.store import now_ms
from serving.settings import StudentSettings
from stillroom.distilling import distilling
from stillroom.settings import Settings
from tests.unit.ledger.rows import a_store, row

DAY_MS = 24 * HOUR_MS


@pytest.fixture
def store():
    with a_store() as opened:
        yield opened


def with_triggers(**values):
    return distilling(Settings(distill=DistillSettings(triggers=TriggerSettings(**values))))


def test_the_settings_are_told_as_they_are_set():
    settings = Settings(distill=DistillSettings(min_examples=7, holdout_share=0.5, approval="auto"))
    known = distilling(settings)
    assert (known.min_examples, known.holdout_share, known.approval, known.refused) == (7, 0.5, "auto", "")
    assert known.data == settings.distill.data


def test_a_job_that_cannot_succeed_is_told_of():
    teacher = msgspec.structs.replace(TeacherSettings(), terms_allow_training=False)
    assert "terms" in distilling(Settings(teacher=teacher)).refused
    student = msgspec.structs.replace(StudentSettings(), base_url="http://127.0.0.1:1")
    assert "student.base_url" in distilling(Settings(student=student)).refused


def test_the_triggers_and_the_limits_are_those_of_now(store):
    now = now_ms()
    known = with_triggers(schedule="every 7d", new_answers=5, compute_hours_month=2.0, teacher_budget_month=1.0)
    insert_records(store, [row("a", created_at=now), row("j", created_at=now, reason="judge", cost_nano=NANO // 4)])
    job = jobs.create(store, "manual", "ann", {})
    jobs.add_events(store, job.id, [(now, "training", {"seconds": 5_400.0})])
    found = known.schedule(store, now + 1)
    triggers = {each.name: each for each in found.triggers}
    assert triggers["schedule"].next_at == job.created_at + 7 * DAY_MS
    assert (triggers["volume"].state, triggers["volume"].threshold) == ("waiting", 5)
    assert triggers["drift"].state == "off"
    holds = {each.name: each for each in found.holds}
    assert holds["cool_down"].holds
    assert holds["cool_down"].until == job.created_at + DAY_MS
    assert (holds["compute_budget"].used, holds["compute_budget"].limit, holds["compute_budget"].holds) == (
        1.5,
        2,
        False,
    )
    assert holds["teacher_budget"].used == 0.25
    assert "window" not in holds
    assert found.settings["schedule"] == "every 7d"


def test_a_budget_that_is_spent_and_a_window_that_is_closed_hold_jobs_back(store):
    now = 2 * HOUR_MS
    known = with_triggers(compute_hours_month=1.0, windows=("22:00-23:00",))
    job = jobs.create(store, "manual", "ann", {})
    jobs.add_events(store, job.id, [(1, "training", {"seconds": 3_600.0})])
    holds = {each.name: each for each in known.schedule(store, now).holds}
    assert (holds["compute_budget"].holds, holds["window"].holds) == (True, True)
    assert holds["window"].until == 22 * HOUR_MS
    assert holds["compute_budget"].until == 31 * DAY_MS


def saving(store, days, cost=NANO, baseline=3 * NANO):
    """So much of each of the newest days."""
    now = now_ms()
    insert_records(
        store,
        [
            row(f"r{day}-{i}", created_at=now - day * DAY_MS - 1, route="student", reason="confident",
                cost_nano=cost, baseline_nano=baseline)
            for day in range(days)
            for i in range(2)
        ],
    )  # fmt: skip


def test_payback_is_the_cost_of_training_over_what_a_day_saves(store):
    saving(store, 10)
    found = distilling(Settings()).payback(store, now_ms() - 9 * DAY_MS, Decimal(20))
    assert found.training_nano == 20 * NANO
    assert found.saved_a_day_nano == pytest.approx(4 * NANO, rel=0.15)
    assert found.payback_days == pytest.approx(20 * NANO / found.saved_a_day_nano)
    low, high = found.saved_a_day_bounds
    assert low <= found.saved_a_day_nano <= high
    soon, late = found.payback_bounds
    assert soon <= found.payback_days <= late


def test_what_saves_nothing_never_pays_and_few_days_have_no_interval(store):
    known = distilling(Settings())
    assert known.payback(store, 0, Decimal(1)) is None
    saving(store, 2, cost=NANO, baseline=NANO)
    found = known.payback(store, now_ms() - DAY_MS, Decimal(1))
    assert (found.payback_days, found.payback_bounds, found.saved_a_day_bounds) == (None, None, None)
