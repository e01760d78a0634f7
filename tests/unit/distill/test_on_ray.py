"""Training by two workers of a real Ray cluster on this machine: as alone, whoever is killed or stopped meanwhile."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from distill.child import command
from distill.collate import Example
from distill.on_ray import cluster_options, part, trainer_options
from distill.progress import read_progress
from distill.ranks import STARTS
from distill.train_config import ConfigError, TrainConfig
from tests.unit.distill.training import SHARED, begun, config_of, ended, same_curves, steps, until

pytest.importorskip("ray", reason="needs Ray: stillroom[ray]")

Rows = Callable[..., list[Example]]
Written = Callable[[list[Example]], Path]
FOUR = TrainConfig(weights="w", examples="e", output="o", engine="ray", processes=4)


@pytest.fixture(autouse=True)
def as_eager_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers are as nice as can be, and a machine that does much else lets them starve."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def processes(driver: Any) -> list[psutil.Process]:
    """All below the one that started them: Ray's own, and the workers."""
    return psutil.Process(driver.pid).children(recursive=True)


def workers(running: list[psutil.Process]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in running:
        with contextlib.suppress(psutil.Error):
            found += [process] if "RayTrainWorker" in "".join(process.cmdline()[:1]) else []
    return found


def alive(running: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in running if each.is_running() and not is_zombie(each)]


def is_zombie(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_worker_a_stop_and_a_cancelled_job_leave_none_running_and_the_loss_curve_of_one_process(
    alone, rows: Rows, written: Written, tmp_path: Path
):
    config, weights = alone(written(rows(24)), epochs=30, save_steps=5, engine="ray")
    job = tmp_path / "job"
    driver = begun(config, job)
    until(lambda: steps(job))
    first = workers(processes(driver))
    assert len(first) == 2
    killed, done = time.time(), steps(job)
    first[1].kill()
    until(lambda: steps(job) > done and (job / STARTS).stat().st_size == 2)
    assert driver.poll() is None, "Ray has put others in their place"
    assert read_progress(job / "progress.jsonl")[0].time < killed, "they went on from the checkpoint"

    running = processes(driver)
    driver.terminate()
    assert ended(driver) == 128 + signal.SIGTERM
    until(lambda: not alive(running))
    done = steps(job)
    assert done < 90, "it was not over"

    driver = begun(config, job)
    until(lambda: steps(job) > done)
    running = processes(driver)
    os.killpg(driver.pid, signal.SIGKILL)
    ended(driver)
    until(lambda: not alive(running))

    assert ended(begun(config, job)) == 0, (job / "stderr").read_text()
    same_curves(tmp_path / "alone", job, within=1e-3)
    assert read_progress(job / "progress.jsonl")[0].time < killed, "nobody began anew"
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert_close(tensor, weights[name], rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_wrong_is_the_trainers_own_line_and_is_tried_once(
    tiny: Path, rows: Rows, written: Written, tmp_path: Path
):
    driver = begun(config_of(tmp_path, tiny, written(rows(1)), engine="ray", **SHARED), tmp_path / "job")
    assert ended(driver) == 2
    said = (tmp_path / "job" / "stderr").read_text().splitlines()
    first = next(line for line in said if line.startswith("distill.train: "))
    assert first.endswith("fewer than 2 examples of at most 1024 tokens")
    assert (tmp_path / "job" / STARTS).stat().st_size == 1


def test_a_worker_that_is_asked_to_stop_before_it_began_does_not_begin(tmp_path: Path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "stop").touch()
    part({"job": str(tmp_path)})
    assert not (tmp_path / STARTS).exists()


def test_a_cluster_with_gpus_gives_one_to_each_worker_and_too_few_are_refused(tmp_path: Path):
    for gpus, on_gpus, backend in ((4.0, True, "cpu:gloo,cuda:nccl"), (0.0, False, "gloo")):
        options = trainer_options(FOUR, tmp_path, gpus)
        assert (options["scaling_config"].num_workers, options["scaling_config"].use_gpu) == (4, on_gpus)
        assert options["torch_config"].backend == backend
    with pytest.raises(ConfigError, match="the cluster has 3 GPUs, fewer than"):
        trainer_options(FOUR, tmp_path, 3.0)


def test_a_named_cluster_is_joined_and_none_is_started_beside_it(monkeypatch: pytest.MonkeyPatch):
    assert cluster_options(FOUR, "/files")["num_cpus"] == 5
    monkeypatch.setenv("RAY_ADDRESS", "ray-head:6379")
    named = cluster_options(FOUR, "/files")
    assert named == {"address": "ray-head:6379", "log_to_driver": False, "logging_level": "CRITICAL"}


def test_the_command_is_the_module(tmp_path: Path):
    assert command(tmp_path, {"engine": "ray", "processes": 4})[1:] == ["-m", "distill.on_ray", str(tmp_path), "4"]
