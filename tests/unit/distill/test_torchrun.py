"""Training shared by two processes that torchrun starts: the same as alone, and ended and gone on with as one."""

import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.testing import assert_close

from distill.child import command
from distill.collate import BucketSampler, Example
from distill.progress import read_progress
from distill.settings import DistillSettings, TrainingSettings
from distill.torchrun import arguments, status_of
from distill.train_config import TrainResult
from tests.unit.distill.training import SHARED, begun, config_of, ended, same_curves, steps, until

Rows = Callable[..., list[Example]]
Written = Callable[[list[Example]], Path]


def ranks_of(job: Path) -> dict[int, psutil.Process]:
    """The processes that train in this folder, by their number."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error, KeyError):
            if {"distill.train", str(job)} <= set(process.info["cmdline"] or []):
                found[int(process.environ()["RANK"])] = process
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_have_the_loss_curve_of_one_and_its_weights(
    alone, rows: Rows, written: Written, tmp_path: Path
):
    config, weights = alone(written(rows(43)), validation_share=0.2, patience=9, save_steps=4, engine="torchrun")
    process = begun(config, tmp_path / "job")
    assert ended(process) == 0, (tmp_path / "job" / "stderr").read_text()
    same_curves(tmp_path / "alone", tmp_path / "job")
    results = [
        msgspec.json.decode((tmp_path / name / "result.json").read_bytes(), type=TrainResult)
        for name in ("alone", "job")
    ]
    assert results[1].final_loss < read_progress(tmp_path / "job" / "progress.jsonl")[0].loss
    assert results[1].validation_loss == pytest.approx(results[0].validation_loss, rel=1e-4)
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert_close(tensor, weights[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_process_a_killed_torchrun_and_a_stop_leave_none_running_and_all_go_on_from_the_checkpoint(
    alone, rows: Rows, written: Written, tmp_path: Path
):
    config, weights = alone(written(rows(24)), epochs=60, save_steps=5, engine="torchrun")
    job = tmp_path / "job"
    process = begun(config, job)
    until(lambda: steps(job) and len(ranks_of(job)) == 2)
    ranks_of(job)[1].kill()
    assert ended(process) == 128 + signal.SIGKILL
    assert not ranks_of(job)
    done = steps(job)

    process = begun(config, job)
    until(lambda: steps(job) > done and len(ranks_of(job)) == 2)
    process.kill()
    until(lambda: not ranks_of(job))
    done = steps(job)

    process = begun(config, job)
    until(lambda: steps(job) > done and len(ranks_of(job)) == 2)
    process.terminate()
    assert ended(process) == 128 + signal.SIGTERM
    assert not ranks_of(job)
    done = steps(job)

    assert 15 <= done < 180, "it was not over, and did not begin anew"
    assert ended(begun(config, job)) == 0
    lines = read_progress(job / "progress.jsonl")
    assert [line.step for line in lines] == sorted({line.step for line in lines})
    assert lines[-1].step == 180
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert_close(tensor, weights[name], rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_wrong_is_the_trainers_own_line(tiny: Path, rows: Rows, written: Written, tmp_path: Path):
    process = begun(config_of(tmp_path, tiny, written(rows(1)), engine="torchrun", **SHARED), tmp_path / "job")
    assert ended(process) == 2
    said = (tmp_path / "job" / "stderr").read_text().splitlines()
    first = next(line for line in said if line.startswith("distill.train: "))
    assert first.endswith("fewer than 2 examples of at most 1024 tokens")


@pytest.mark.parametrize(
    ("exits", "status"),
    [([2, -15], 2), ([143, 2], 2), ([1, -9], 137), ([-15, 1], 1), ([143, -15], 143)],
    ids=["stopped before its handler", "stopped by its handler", "killed", "failed", "all stopped"],
)
def test_the_status_is_not_of_one_that_torchrun_stopped(exits: list[int], status: int):
    assert status_of(exits) == status


def test_the_command_line_is_torchruns(tmp_path: Path):
    torchrun = pytest.importorskip("torch.distributed.run")
    read = torchrun.parse_args(arguments(str(tmp_path), "4"))
    assert (read.standalone, read.nproc_per_node, read.max_restarts) == (True, "4", 0)
    assert (read.module, read.training_script, read.training_script_args) == (True, "distill.train", [str(tmp_path)])
    assert command(tmp_path, {"engine": "torchrun", "processes": 4})[1:] == [
        "-m",
        "distill.torchrun",
        str(tmp_path),
        "4",
    ]
    assert command(tmp_path, {}) == [sys.executable, "-m", "distill.train", str(tmp_path)]


def test_a_batch_that_has_no_equal_parts_is_refused():
    with pytest.raises(ValueError, match="batch_size = 32: not a multiple of accumulation_steps x processes, 3"):
        DistillSettings(engine="torchrun", processes=3)
    assert DistillSettings(engine="local", processes=3).training == TrainingSettings()


def test_processes_cannot_share_one_server_of_the_student():
    samples = {"sampler": "vllm", "on_policy_share": 1.0, "teacher_weights": "t"}
    assert DistillSettings(engine="local", training=TrainingSettings(**samples)).training.samples_on_server
    with pytest.raises(ValueError, match=r'sampler = "vllm" needs distill\.engine = "local"'):
        DistillSettings(engine="torchrun", training=TrainingSettings(**samples))


@given(st.lists(st.integers(1, 50), min_size=8, max_size=70), st.integers(1, 4), st.integers(1, 2), st.integers(0, 3))
def test_processes_have_each_batch_of_one_process_between_them_in_whatever_pieces(
    lengths: list[int], processes: int, pieces: int, epoch: int
):
    def steps(process: int, of: int, pieces: int) -> list[list[list[int]]]:
        sampler = BucketSampler(lengths, 8, 5, part=(process, of, pieces))
        sampler.set_epoch(epoch)
        taken = list(sampler)
        assert len(taken) == len(sampler)
        assert all(taken)
        return [taken[at : at + pieces] for at in range(0, len(taken), pieces)]

    def whole(processes: int, pieces: int) -> list[list[int]]:
        parts = [steps(process, processes, pieces) for process in range(processes)]
        assert len({tuple(map(len, of_one)) for of_one in parts}) == 1, "none waits for another in vain"
        return [
            sorted(row for of_one in step for piece in of_one for row in piece) for step in zip(*parts, strict=True)
        ]

    found = whole(processes, pieces)
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    if len(lengths) % 8 == 0 or len(lengths) % 8 >= processes:
        assert found == whole(1, pieces)
        assert sorted(found) == sorted(whole(1, 1))


def test_fewer_rows_than_pieces_are_a_piece_each():
    assert list(BucketSampler([5, 5], 8, 0, part=(0, 1, 4))) in ([[0], [1]], [[1], [0]])
