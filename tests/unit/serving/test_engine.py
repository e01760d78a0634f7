"""The command line and the environment that vLLM is started with."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine import EngineOptions, command, detect_device, environment
from serving.server import Backoff, VllmServer, free_port

CPU = EngineOptions(
    weights=Path("/releases/7/student"),
    served_name="student",
    release="rel-7",
    port=8123,
    context_tokens=4096,
    device="cpu",
    threads=2,
)
CUDA = EngineOptions(
    weights=Path("/releases/7/student"),
    served_name="student",
    release="rel-7",
    port=8123,
    context_tokens=4096,
    device="cuda",
    extra_args=("--tensor-parallel-size", "2"),
)
SHARED = (
    "-m vllm.entrypoints.launchers.api_server.entry --model /releases/7/student --served-model-name student "
    "--host 127.0.0.1 --port 8123 --max-model-len 4096 --max-num-seqs 64 --load-format safetensors "
    "--max-logprobs 20 --fingerprint-mode custom --fingerprint-value rel-7 --shutdown-timeout 30 "
    "--disable-uvicorn-access-log"
)


def test_the_cpu_command_line_is_float32_and_eager():
    assert command(CPU) == [sys.executable, *SHARED.split(), "--dtype", "float32", "--enforce-eager"]


def test_the_cuda_command_line_lets_vllm_choose_the_dtype_and_ends_with_the_extra_arguments():
    expected = [*SHARED.split(), "--dtype", "auto", "--tensor-parallel-size", "2"]
    assert command(CUDA) == [sys.executable, *expected]


def test_the_cpu_environment_states_threads_and_cache_and_sends_nothing_home():
    assert environment(CPU, {}) == {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONSAFEPATH": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_LOG_STATS_INTERVAL": "60",
        "VLLM_NO_USAGE_STATS": "1",
    }


def test_the_cuda_environment_has_no_cpu_settings():
    assert not [name for name in environment(CUDA, {}) if "CPU" in name or name == "OMP_NUM_THREADS"]


def test_the_engine_gets_what_it_needs_and_no_secret():
    base = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "TEACHER_API_KEY": "sk-1",
        "STILLROOM_STORE__URL": "postgresql://user:secret@db/ledger",
        "HF_TOKEN": "hf-1",
        "VLLM_API_KEY": "key",
        "VLLM_SERVER_DEV_MODE": "1",
    }
    kept = environment(CUDA, base)
    assert {name: kept[name] for name in base if name in kept} == {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1"}


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_no_inherited_variable_overrides_a_setting(base):
    assert environment(CPU, base).items() >= environment(CPU, {}).items()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("script", "device"),
    [
        pytest.param("echo 'GPU 0: NVIDIA L4'", "cuda", id="driver lists a GPU"),
        pytest.param("exit 9", "cpu", id="driver does not answer"),
        pytest.param(None, "cpu", id="no driver"),
    ],
)
def test_the_device_is_what_the_driver_shows(script, device, tmp_path, monkeypatch):
    if script is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect_device() == device


def test_importing_the_room_loads_no_torch_and_no_vllm():
    code = (
        "import sys, serving.engine, serving.parity, serving.server, serving.weights;"
        "print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_free_port_can_be_bound():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", free_port()))


@given(st.integers(1, 10_000))
def test_the_wait_before_a_restart_is_at_least_half_a_second_and_at_most_a_minute(failures):
    wait = Backoff().wait(failures)
    assert min(60, 2.0 ** min(failures - 1, 6)) / 2 <= wait <= min(60, 2.0 ** min(failures - 1, 6))


async def test_a_server_that_was_never_started_is_not_alive_and_can_be_stopped(tmp_path):
    server = VllmServer(CPU, tmp_path / "engine.log")
    await server.stop(drain_seconds=0)
    assert (server.alive, server.pid, server.tail()) == (False, None, "")
    assert server.url == "http://127.0.0.1:8123"


def test_the_log_tail_skips_what_an_exiting_interpreter_adds(tmp_path):
    log = tmp_path / "engine.log"
    log.write_text('first\nRuntimeError: no memory\n\nnanobind: leaked 4 instances!\n - leaked type "x"\n')
    assert VllmServer(CPU, log).tail(1) == "RuntimeError: no memory"


def test_threads_are_the_cores_this_process_may_use():
    options = EngineOptions(Path("/m"), "student", "rel-7", 1, 512, "cpu")
    assert options.threads == len(os.sched_getaffinity(0))
