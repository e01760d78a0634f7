"""``distill targets`` as a shell sees it, and a teacher whose terms forbid training."""

import json

import msgspec
import pytest

from distill.capabilities import TeacherCapabilities
from distill.data.rows import Manifest
from distill.target_report import TargetReport

pytestmark = pytest.mark.usefixtures("ledger")


@pytest.fixture
def dataset(tmp_path):
    report = TargetReport({"top_k": 2}, 10, 8, {"special": 2}, 4.0, 3.0)
    teacher = TeacherCapabilities(answers=2, with_logprobs=2, top_logprobs=5, tokens=200, same_tokens=200)
    manifest = Manifest(1, 2, 1, {}, 0.8, {}, "0" * 64, targets=report, teacher=teacher)
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return str(folder)


def test_a_datasets_targets_are_shown(stillroom, dataset):
    status, out, _ = stillroom("distill", "targets", dataset)
    assert status == 0
    assert [line.split() for line in out.splitlines()[1:3]] == [
        ["soft", "target", "8", "80.0%"],
        ["special", "2", "20.0%"],
    ]
    assert "rows by loss: 2 top k; 75.0% of the logged probability is kept" in out
    assert "up to 5 log-probabilities a token with 2 of 2 answers; the student's own vocabulary" in out
    found = json.loads(stillroom("distill", "targets", dataset, "--json")[1])
    assert (found["targets"]["aligned_share"], found["targets"]["mass_kept"]) == (0.8, 0.75)
    assert found["teacher"]["top_logprobs"] == 5


def test_a_folder_that_is_no_dataset_is_a_failure(stillroom, tmp_path):
    status, _, err = stillroom("distill", "targets", str(tmp_path))
    assert (status, "is no dataset" in err) == (1, True)


def test_one_of_a_folder_and_the_ledger_is_looked_at(stillroom, dataset):
    assert stillroom("distill", "targets")[0] == 2
    assert stillroom("distill", "targets", dataset, "--from-ledger", "5")[0] == 2


def test_a_teacher_whose_terms_forbid_it_is_not_trained_on(stillroom, monkeypatch):
    monkeypatch.setenv("STILLROOM_TEACHER__TERMS_ALLOW_TRAINING", "false")
    status, _, err = stillroom("distill", "data")
    assert (status, "teacher.terms_allow_training is false" in err) == (1, True)
    monkeypatch.setenv("STILLROOM_STUDENT__BASE_URL", "http://127.0.0.1:9/v1")
    status, _, err = stillroom("distill", "run")
    assert (status, "teacher.terms_allow_training is false" in err) == (1, True)
