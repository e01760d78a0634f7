"""What a job's row may change, and a full disk as each library says it."""

from pathlib import Path

import pytest

from distill import disk
from distill.context import JobFailed
from distill.data.settings import DataSettings
from distill.job_options import as_asked
from distill.settings import DistillSettings

SETTINGS = DistillSettings(max_examples=1_000, start_from="champion", data=DataSettings(tags=("a", "b")))


def test_a_job_lowers_the_number_of_examples_and_never_raises_it():
    assert as_asked(SETTINGS, {"max_examples": 10}).max_examples == 10
    assert as_asked(SETTINGS, {"max_examples": 9_999}).max_examples == 1_000
    assert as_asked(SETTINGS, {"note": "x"}) == as_asked(SETTINGS, {}) == SETTINGS


def test_a_job_says_what_it_starts_from():
    assert as_asked(SETTINGS, {"start_from": "base"}).start_from == "base"


def test_a_job_with_filters_takes_less_and_waits_for_a_person():
    settings = DistillSettings(
        approval="auto", data=DataSettings(tags=("a", "b"), min_feedback=0.4, since="1970-01-09")
    )
    asked = {"tags": ["b"], "routes": ["teacher"], "min_feedback": 0.2, "since": "1970-01-02", "until": "1970-02-01"}
    job = as_asked(settings, asked)
    data = job.data
    assert (data.tags, data.routes, data.min_feedback) == (("b",), ("teacher",), 0.4)
    assert (data.since, data.until) == ("1970-01-09", "1970-02-01")
    assert (job.approval, as_asked(settings, {"note": "x"}).approval) == ("manual", "auto")


@pytest.mark.parametrize(
    "asked",
    [
        {"min_agreement": 0},
        {"start_from": "/etc"},
        {"max_examples": 0},
        {"tag": "a"},
        {"tags": "a"},
        {"tags": ["c"]},
        {"routes": ["cache"]},
        {"since": "soon"},
        {"min_feedback": 2},
    ],
)
def test_a_row_that_asks_for_anything_else_fails_the_job(asked: dict[str, object]):
    with pytest.raises(JobFailed, match="the job's own settings cannot be used"):
        as_asked(SETTINGS, asked)


@pytest.mark.parametrize(
    "said",
    [
        "OSError: [Errno 28] No space left on device: '/x/report.json'",
        "OSError: [Errno 27] File too large",
        "OSError: [Errno 122] Disk quota exceeded",
        'SafetensorError: Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "..." }',
        "SafetensorError: Error while serializing: No space left on device (os error 28)",
        "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 192 vs 86",
        "RuntimeError: PytorchStreamWriter failed writing file data/3: file write failed",
        "(sqlite3.OperationalError) database or disk is full",
    ],
)
def test_a_full_disk_is_told_as_one_with_where_and_what_to_do(tmp_path: Path, said: str):
    cause = disk.cause(said, tmp_path)
    assert cause.startswith(f"disk full: {tmp_path} has ")
    assert "make room there" in cause
    assert cause.endswith(said)


@pytest.mark.parametrize("said", ["ValueError: code: 280", "killed", "[Errno 13] Permission denied", "position 28"])
def test_another_fault_is_told_as_it_is(tmp_path: Path, said: str):
    assert disk.cause(said, tmp_path) == said
