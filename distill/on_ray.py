"""Train by several workers of a Ray cluster: ``python -m distill.on_ray JOB_DIR WORKERS``.

Ray Train's TorchTrainer starts the workers, each of which is what a ``distill.train`` is. The cluster is that of
``RAY_ADDRESS``, or one on this machine that ends with this process. All its machines need this installation, and the
paths of ``train.json`` on a disk that they share: what is exchanged besides lies in the job's folder. Where a worker
is lost, Ray starts all of them again, and they go on from the newest checkpoint. The exit status is that of
`distill.train`.
"""

import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from distill import ranks
from distill.train import StopFlag, attempt, prepared
from distill.train_config import ConfigError, TrainConfig, read_config

__all__ = ("cluster_options", "main", "part", "trainer_options")

SCRATCH: Final = Path(ranks.STARTS).parent.name
"""In the job's folder: what this process and the workers tell each other, and what Ray Train writes down."""
STOP: Final = "stop"
OVER: Final = "over.json"
STORE_BYTES: Final = 100 * 1024**2
"""Of Ray's own store, through which nothing large goes here."""
STOPPED: Final = 128 + signal.SIGTERM
PEER_LOST: Final = ("RuntimeError", "DistBackendError", "DistNetworkError", "DistStoreError")
"""How torch says that another worker is gone; what else goes wrong would go wrong again."""


class StopFile(StopFlag):
    """Set by a file: the workers are on other machines than whoever is asked to stop."""

    def __init__(self, scratch: Path) -> None:
        self._file = scratch / STOP

    @property
    def asked(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - read only
        """Whether it is there."""
        return self._file.exists()


def cluster_options(config: TrainConfig, files: str) -> dict[str, Any]:
    """Of ``ray.init``: the named cluster, or one on this machine with its ``files`` there."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if "RAY_ADDRESS" in os.environ:
        return options | {"address": os.environ["RAY_ADDRESS"]}
    return options | {
        "address": "local",
        # what Ray starts besides the workers wants a place too
        "num_cpus": config.processes + 1,
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
        "_temp_dir": files,
    }


def trainer_options(config: TrainConfig, job: Path, gpus: float) -> dict[str, Any]:
    """Of ``TorchTrainer``: a GPU for each worker, or Gloo in a cluster without. Raises `ConfigError` for too few."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    if 0 < gpus < config.processes:
        raise ConfigError(f"the cluster has {gpus:g} GPUs, fewer than distill.processes = {config.processes}")
    return {
        "train_loop_config": {"job": str(job)},
        "scaling_config": ScalingConfig(num_workers=config.processes, use_gpu=gpus > 0),
        "torch_config": TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
        "run_config": RunConfig(
            storage_path=str(job / SCRATCH),
            failure_config=FailureConfig(max_failures=ranks.RESTARTS),
            worker_runtime_env={"env_vars": {"PYTHONWARNINGS": "ignore", **prepared(config.threads)}},
        ),
    }


def part(told: dict[str, Any]) -> None:
    """What each worker does. One that fails ends the others; what would fail again is written down before that."""
    job = Path(told["job"])
    scratch = job / SCRATCH
    stop = StopFile(scratch)
    if stop.asked or (scratch / OVER).exists():
        return
    if ranks.is_first():
        with (job / ranks.STARTS).open("ab") as starts:
            starts.write(b".")
    status, line = attempt(job, stop, lambda _threads: None)
    if status in (0, STOPPED):
        return
    if line.partition(":")[0] not in PEER_LOST:
        with suppress(FileExistsError), (scratch / OVER).open("xb") as written:
            written.write(msgspec.json.encode((status, line)))
    raise RuntimeError(line)


def main(words: Sequence[str]) -> int:
    """Run it to its end; a failure is one line on standard error."""
    job = Path(words[0]).resolve()
    shutil.rmtree(job / SCRATCH, ignore_errors=True)
    (job / SCRATCH).mkdir()
    try:
        status, line = _run(read_config(job), job)
    except ConfigError as error:
        status, line = 2, str(error)
    if line:
        sys.stderr.write(f"distill.train: {line}\n")
    return status


def _run(config: TrainConfig, job: Path) -> tuple[int, str]:
    # Ray reads these when it is imported
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}
    if "RAY_ADDRESS" not in os.environ:
        # whoever reaches its ports may run what he likes, but for this
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
        from ray.train import TrainingFailedError
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise ConfigError("engine = \"ray\" needs Ray: pip install 'stillroom[ray]'") from error
    scratch = job / SCRATCH

    def ask(_signal: int, _frame: FrameType | None) -> None:
        (scratch / STOP).touch()

    with _cluster(config):
        # Ray has put its own in the place of any before
        signal.signal(signal.SIGTERM, ask)
        try:
            gpus = ray.cluster_resources().get("GPU", 0.0)
            TorchTrainer(part, **trainer_options(config, job, gpus)).fit()
        except TrainingFailedError as error:
            if not (scratch / OVER).exists():
                return 1, f"the workers were lost {ranks.RESTARTS + 1} times: {' '.join(str(error).split())[-500:]}"
    if (scratch / OVER).exists():
        return msgspec.json.decode((scratch / OVER).read_bytes(), type=tuple[int, str])
    return (0 if Path(config.output).exists() else STOPPED), ""


@contextmanager
def _cluster(config: TrainConfig) -> Generator[None]:
    import ray

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as files:
        ray.init(**cluster_options(config, files))
        try:
            yield
        finally:
            ray.shutdown()


if __name__ == "__main__":
    from distill import on_ray  # noqa: PLW0406 - by its name, so that the workers get `part` by reference

    sys.exit(on_ray.main(sys.argv[1:]))
