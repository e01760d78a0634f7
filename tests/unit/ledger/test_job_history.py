"""Jobs page by page, and a job's events as a page shows them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import jobs
from ledger.job_history import MOST_POINTS, history, jobs_page
from ledger.jobs import JobError
from tests.unit.ledger.rows import a_store


def a_job(store, name="one"):
    return jobs.create_once(store, name, "manual", "ann", {})[0].id


@given(n=st.integers(0, 9), size=st.integers(1, 4), same_time=st.booleans())
def test_the_pages_hold_each_job_once_newest_first(n, size, same_time):
    with a_store() as store, pytest.MonkeyPatch.context() as patch:
        for i in range(n):
            patch.setattr(jobs, "now_ms", lambda i=i: 7 if same_time else i)
            a_job(store, f"job {i}")
        seen, before = [], None
        while some := jobs_page(store, size, before):
            assert len(some) <= size
            seen += some
            before = some[-1].id
        assert seen == jobs.list_jobs(store)


def test_a_page_is_of_one_state_where_it_says_so_and_of_a_job_that_is_there(store):
    first, second = a_job(store, "a"), a_job(store, "b")
    jobs.cancel(store, first, "ann")
    assert [job.id for job in jobs_page(store, 9, state="cancelled")] == [first]
    assert [job.id for job in jobs_page(store, 9, state="queued")] == [second]
    with pytest.raises(JobError, match="no job 'x'"):
        jobs_page(store, 9, before="x")


def test_a_history_holds_the_stages_the_newest_progress_and_the_log_without_it(store):
    job = a_job(store)
    jobs.add_event(store, a_job(store, "other"), "training", {"step": 99})
    happened = [
        (1, "state", {"state": "building"}), (2, "dataset_progress", {"done": 1}),
        (3, "dataset_progress", {"done": 2}), (4, "dataset", {"train": 5}), (5, "state", {"state": "training"}),
        (6, "training", {"step": 1}), (7, "restart", {"ended_by": "SIGKILL"}), (8, "training", {"step": 2}),
    ]  # fmt: skip
    jobs.add_events(store, job, happened)
    found = history(store, job, lines=2)
    assert found.stages == [(1, "building"), (5, "training")]
    assert found.newest == {"dataset_progress": {"at": 3, "done": 2}, "training": {"at": 8, "step": 2}}
    assert found.training == [{"step": 1}, {"step": 2}]
    assert [line["kind"] for line in found.log] == ["restart", "state"]
    assert found.last_id == max(event["id"] for event in jobs.events(store, job))


def test_a_job_without_events_has_an_empty_history(store):
    found = history(store, a_job(store), 10)
    assert (found.stages, found.newest, found.training, found.log, found.last_id) == ([], {}, [], [], 0)


@pytest.mark.parametrize("lines", [1, 2, MOST_POINTS, MOST_POINTS + 1, 5 * MOST_POINTS + 3])
def test_a_long_curve_is_thinned_evenly_and_keeps_its_ends(store, lines):
    job = a_job(store)
    jobs.add_events(store, job, [(i, "training", {"step": i}) for i in range(lines)])
    steps = [line["step"] for line in history(store, job, 1).training]
    assert steps == sorted(set(steps))
    assert len(steps) <= MOST_POINTS + 2
    assert len(steps) >= min(lines, MOST_POINTS // 2)
    assert (steps[0], steps[-1]) == (0, lines - 1)
