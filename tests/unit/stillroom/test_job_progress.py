"""A job's progress as the command line and the demo show it."""

import io

import pytest
from rich.console import Console

from stillroom.commands.distill import JobProgress

STEPS = [("reading", 500, 0), ("reading", 1_200, 1_200), ("choosing", 0, 1_200), ("choosing", 1_200, 1_200),
         ("writing", 500, 900), ("writing", 900, 900)]  # fmt: skip


@pytest.mark.parametrize("is_terminal", [True, False])
def test_each_step_of_a_dataset_has_a_bar_that_comes_to_its_end(is_terminal: bool):
    shown = io.StringIO()
    progress = JobProgress(Console(file=shown, force_terminal=is_terminal, width=120))
    with progress.bars:
        for what, done, of in STEPS:
            progress("dataset_progress", {"what": what, "done": done, "of": of})
        assert [(task.description, task.finished) for task in progress.bars.tasks] == [
            ("dataset: reading", True), ("dataset: choosing", True), ("dataset: writing", True),
        ]  # fmt: skip


def test_a_log_file_says_where_a_step_ended_whose_beginning_it_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stillroom.commands.distill.SAY_EVERY_S", -1.0)
    shown = io.StringIO()
    progress = JobProgress(Console(file=shown, width=120))
    progress("dataset_progress", {"what": "choosing", "done": 0, "of": 1_200})
    monkeypatch.setattr("stillroom.commands.distill.SAY_EVERY_S", 1_000.0)
    for done in (600, 1_200, 1_200):
        progress("dataset_progress", {"what": "choosing", "done": done, "of": 1_200})
    assert [line.split() for line in shown.getvalue().splitlines()] == [
        ["dataset:", "choosing", "0/1200"], ["dataset:", "choosing", "1200/1200"],
    ]  # fmt: skip
