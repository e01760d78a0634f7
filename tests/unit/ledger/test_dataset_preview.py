"""What a job would find: counted from the ledger's columns, and reckoned from the jobs before it."""

import dataclasses

import pytest

from ledger import dataset_preview, datasets, erasure, feedback, jobs
from ledger.dataset_preview import Estimate, MoneyEstimate, preview
from ledger.datasets import Dataset
from ledger.distilling import Distilling
from ledger.feedback import Feedback
from ledger.job_settings import JobSettings
from ledger.request_filters import DatedFilters
from ledger.requests import insert_records
from tests.unit.ledger.rows import row

NOW = 50 * 86_400_000
KNOWN = Distilling(min_examples=3, max_examples=1_000, holdout_share=0.25, paid_reasons=("judge",))
NOTHING = JobSettings()


def asked_of(store, known=KNOWN, asked=NOTHING):
    return preview(store, known, asked, NOW)


def say(store, request, **said):
    feedback.add(store, Feedback(id="", created_at=0, request_id=request, **said), None, True)


def past_job(store, name, manifest, seconds, ends="awaiting_approval"):
    """A job that built this dataset and was judged so many seconds after it began."""
    job = jobs.create_once(store, name, "manual", "ann", {})[0]
    states = [(1_000, "building"), (2_000, "training"), (3_000, "evaluating"), (1_000 + seconds * 1000, ends)]
    jobs.add_events(store, job.id, [(at, "state", {"state": state}) for at, state in states])
    datasets.add(store, Dataset(f"d-{name}", 1, job.id, "/d", "0" * 64, manifest), [])
    return job


def test_an_empty_ledger_refuses_a_job_and_says_what_it_lacks(store):
    found = asked_of(store)
    assert (found.read, found.usable, found.dropped, found.at_most) == (0, 0, {}, 0)
    assert "0 answers" in found.refused
    assert "min_examples" in found.refused
    assert (found.train, found.seconds, found.calls_nano) == (None, None, None)


def test_each_answer_of_the_teacher_is_usable_or_dropped_for_one_reason(store):
    kept = [row(f"ok{i}") for i in range(8)]
    insert_records(
        store,
        [
            *kept,
            row("opted-out", trainable=False),
            row("error", status=502),
            row("cut", finish_reason="length"),
            row("none", finish_reason=None),
            row("gone", content=None),
            row("student", route="student", reason="confident"),
            row("call", reason="judge", trainable=False),
        ],
    )
    found = asked_of(store)
    assert found.dropped == {"not_to_be_trained_on": 1, "failed": 1, "cut_off": 2, "no_content_kept": 1}
    assert (found.read, found.usable, found.is_whole) == (13, 8, True)
    assert found.at_most == 6
    assert (found.refused, found.warning) == ("", "")


def test_what_was_erased_is_dropped(store):
    insert_records(store, [row(f"r{i}") for i in range(4)])
    erasure.erase(store, erasure.resolve(store, "request", "r1"), "ann")
    found = asked_of(store)
    assert (found.usable, found.dropped) == (3, {"no_content_kept": 1})


def test_a_correction_of_the_students_answer_counts_once_and_one_of_the_teachers_not_twice(store):
    insert_records(store, [row("s", route="student", reason="confident"), row("t"), row("t2"), row("t3")])
    say(store, "s", comment="wrong")
    assert asked_of(store).corrections == 0
    for request in ("s", "s", "t"):
        say(store, request, correction="better")
    found = asked_of(store)
    assert (found.usable, found.corrections) == (3, 1)
    say(store, "s", score=0.0)
    assert asked_of(store).corrections == 0


def test_the_filters_of_the_settings_and_of_the_job_both_count(store):
    insert_records(
        store,
        [
            *(row(f"a{i}", created_at=NOW - 1_000, tags=["a", "x"]) for i in range(3)),
            *(row(f"b{i}", created_at=NOW - 1_000, tags=["b"], key_id="key_1") for i in range(2)),
            row("old", created_at=1_000, tags=["a"]),
        ],
    )
    known = dataclasses.replace(KNOWN, data=DatedFilters(since="10d"))
    assert asked_of(store, known).usable == 5
    tagged = asked_of(store, known, JobSettings(tags=("a",)))
    assert (tagged.usable, tagged.dropped) == (3, {"other_tags": 2})
    assert asked_of(store, known, JobSettings(keys=("key_1",))).read == 2
    assert asked_of(store, KNOWN, JobSettings(since="10d")).read == 5
    assert asked_of(store, KNOWN, JobSettings(max_examples=2)).at_most == 2


def test_a_job_that_would_take_more_than_the_settings_is_refused(store):
    known = dataclasses.replace(KNOWN, data=DatedFilters(tags=("a",)))
    with pytest.raises(ValueError, match="'b' is not among a"):
        asked_of(store, known, JobSettings(tags=("b",)))


def test_feedback_below_the_least_drops_an_answer_and_so_does_none(store):
    insert_records(store, [row("good"), row("bad"), row("unsaid")])
    say(store, "good", score=0.2)
    say(store, "good", score=1.0)
    say(store, "bad", score=0.1)
    found = asked_of(store, dataclasses.replace(KNOWN, data=DatedFilters(min_feedback=0.5)))
    assert (found.usable, found.dropped) == (1, {"feedback_too_low": 2})


def test_no_more_than_the_newest_are_counted(store, monkeypatch):
    monkeypatch.setattr(dataset_preview, "MOST", 4)
    insert_records(store, [row(f"r{i}", created_at=i, trainable=i > 5) for i in range(9)])
    found = asked_of(store)
    assert (found.read, found.is_whole, found.usable) == (4, False, 3)


def test_estimates_take_the_share_the_time_and_the_cost_of_the_last_jobs(store):
    insert_records(store, [row(f"r{i}") for i in range(400)])
    insert_records(
        store, [row("call", created_at=2_000, reason="judge", cost_nano=3_000, content=None, trainable=False)]
    )
    past_job(store, "half", {"train": 40, "held_out": 10, "dropped": {"refusal": 50}}, 80)
    past_job(store, "all", {"train": 60, "held_out": 20, "dropped": {"beyond_max_examples": 20}}, 60)
    found = asked_of(store)
    assert found.at_most == 300
    assert found.train == Estimate(225.0, 150.0, 300.0, 2)
    assert found.seconds == Estimate(225 * 1.5, 225 * 1.0, 225 * 2.0, 2)
    assert found.calls_nano == MoneyEstimate(225 * 3_000 // 60, 225 * 3_000 // 60, 225 * 3_000 // 40, 2)


@pytest.mark.parametrize("ends", ["failed", "cancelled"])
def test_a_job_that_was_not_judged_tells_no_time(store, ends):
    insert_records(store, [row(f"r{i}") for i in range(9)])
    past_job(store, "broken", {"train": 40, "held_out": 10, "dropped": {}}, 80, ends)
    found = asked_of(store)
    assert found.train is not None
    assert (found.seconds, found.calls_nano) == (None, None)


def test_it_warns_where_too_few_may_be_left_and_refuses_only_where_that_is_sure(store):
    insert_records(store, [row(f"r{i}") for i in range(4)])
    few = asked_of(store, dataclasses.replace(KNOWN, min_examples=4))
    assert few.refused == ""
    assert "fewer than 4 fails" in few.warning
    assert asked_of(store, dataclasses.replace(KNOWN, min_examples=5)).refused != ""
    assert asked_of(store, dataclasses.replace(KNOWN, refused="the terms")).refused == "the terms"
