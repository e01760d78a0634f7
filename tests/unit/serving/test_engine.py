"""The command line and the environment that vLLM is started with."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.address import AddressError, root_url
from serving.engine import EngineOptions, Parallel, command, detect_device, environment, share_of
from serving.guard import KEY_VARIABLE, MARK, RELEASE_VARIABLE, TOKEN_VARIABLE
from serving.server import Backoff, VllmServer, free_port
from serving.settings import StudentSettings
from serving.students import check_address, engine_options
from tests.engine_fixtures import SMALL_CACHE

CPU = EngineOptions(
    weights=Path("/releases/7/student"),
    served_name="student",
    release="rel-7",
    port=8123,
    context_tokens=4096,
    device="cpu",
    threads=2,
    token="let-me-in",
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
    "--max-logprobs 20 --fingerprint-mode custom --fingerprint-value stillroom-release-is-stamped-here "
    "--middleware serving.guard.ReleaseGuard --shutdown-timeout 30 "
    "--disable-uvicorn-access-log"
)


def test_the_cpu_command_line_is_float32_and_eager():
    cache = ["--kv-cache-memory-bytes", str(1 << 30)]
    assert command(CPU) == [sys.executable, *SHARED.split(), "--dtype", "float32", "--enforce-eager", *cache]


def test_on_cpus_the_cache_is_as_large_as_the_settings_arguments_say():
    smaller = engine_options(StudentSettings(device="cpu", engine_args=SMALL_CACHE), CPU.weights, "r", 1)
    assert command(smaller)[-2:] == [*SMALL_CACHE], "the last of the two is in force"


def test_the_cuda_command_line_lets_vllm_choose_the_dtype_and_ends_with_the_extra_arguments():
    expected = [*SHARED.split(), "--dtype", "auto", "--tensor-parallel-size", "2"]
    assert command(CUDA) == [sys.executable, *expected]


PARALLEL = [
    (Parallel(), ""),
    (Parallel(tensor=4), "--tensor-parallel-size 4"),
    (Parallel(2, 3, 4), "--tensor-parallel-size 2 --pipeline-parallel-size 3 --data-parallel-size 4"),
    (Parallel(tensor=8, executor="ray"), "--tensor-parallel-size 8 --distributed-executor-backend ray"),
    (
        Parallel(data=2, executor="ray"),
        "--data-parallel-size 2 --distributed-executor-backend ray --data-parallel-backend ray",
    ),
]


@pytest.mark.parametrize(("parallel", "words"), PARALLEL)
def test_more_gpus_than_one_are_said_and_one_is_not(parallel: Parallel, words: str):
    plain = replace(CUDA, extra_args=())
    assert command(replace(plain, parallel=parallel)) == [*command(plain), *words.split()]


def test_settings_of_more_gpus_reach_the_command_line():
    settings = StudentSettings(device="cuda", tensor_parallel=2, pipeline_parallel=2, data_parallel=3, executor="ray")
    assert engine_options(settings, CUDA.weights, "r", 1).parallel == Parallel(2, 2, 3, "ray")


def test_vllm_itself_takes_every_command_line_that_is_made():
    """In a process of its own: vLLM registers itself with torch when it is imported."""
    pytest.importorskip("vllm")
    lines = [command(replace(CUDA, extra_args=(), parallel=parallel))[3:] for parallel, _ in PARALLEL]
    code = (
        "import json, sys\n"
        "from vllm.entrypoints.launchers.cli_args import make_arg_parser\n"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    read = make_arg_parser(FlexibleArgumentParser()).parse_args(line)\n"
        "    print(json.dumps([read.tensor_parallel_size, read.pipeline_parallel_size, read.data_parallel_size,\n"
        "                      read.distributed_executor_backend, read.data_parallel_backend]))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, json.dumps(lines)], capture_output=True, text=True, check=True)
    read = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[")]
    assert [line[:3] for line in read] == [[each.tensor, each.pipeline, each.data] for each, _ in PARALLEL]
    assert [line[3] for line in read] == [None, None, None, "ray", "ray"]
    assert read[-1][4] == "ray"


def test_on_cpus_one_process_runs_the_model_itself_and_several_do_not():
    spread = environment(replace(CPU, parallel=Parallel(tensor=2)), {})
    assert set(environment(CPU, {})) - set(spread) == {"VLLM_ENABLE_V1_MULTIPROCESSING"}


def test_the_cpu_environment_states_threads_and_sends_nothing_home():
    assert environment(CPU, {}) == {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONSAFEPATH": "1",
        "STILLROOM_GUARD_RELEASE": "rel-7",
        "STILLROOM_GUARD_TOKEN": "let-me-in",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_LOG_STATS_INTERVAL": "60",
        "VLLM_NO_USAGE_STATS": "1",
    }


KEY = "students-own"


@pytest.mark.parametrize(
    ("address", "url"), [("10.0.0.5", "http://10.0.0.5:8123"), ("fd00::5", "http://[fd00::5]:8123")]
)
def test_off_loopback_a_server_is_told_its_address_and_by_its_environment_alone_its_key(
    address: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STUDENT_API_KEY", KEY)
    options = engine_options(StudentSettings(address=address), CPU.weights, "rel-7", 8123)
    line = command(options)
    assert line[line.index("--host") : line.index("--host") + 4] == ["--host", address, "--port", "8123"]
    assert {name for name, value in environment(options, os.environ).items() if value == KEY} == {KEY_VARIABLE}
    assert KEY not in f"{line} {options}"
    assert VllmServer(options, tmp_path / "log").url == url == root_url(address, 8123)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_on_loopback_no_key_is_asked_for(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STUDENT_API_KEY", KEY)
    options = engine_options(StudentSettings(address=address), CPU.weights, "rel-7", 8123)
    assert KEY not in environment(options, os.environ).values()


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (None, "off loopback students ask for a key, and STUDENT_API_KEY (student.api_key_env) is not set"),
        ("", "is not set"),
        ("of two\nlines", "STUDENT_API_KEY: a key has printable ASCII only"),
    ],
)
def test_off_loopback_no_server_is_started_without_a_key_that_can_be_sent(key, why, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("STUDENT_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("STUDENT_API_KEY", key)
    for refusing in (check_address, lambda settings: engine_options(settings, CPU.weights, "rel-7", 8123)):
        with pytest.raises(AddressError) as refused:
            refusing(StudentSettings(address="10.0.0.5"))
        assert why in str(refused.value)


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


def test_several_servers_of_one_machine_share_its_gpus_and_its_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b,GPU-c,GPU-d,GPU-e")
    two = StudentSettings(device="cuda", tensor_parallel=2, replicas=2)
    options = [engine_options(two, CUDA.weights, "r", 1, slot) for slot in range(3)]
    # a third one, of the release that takes over, has to share
    assert [each.gpus for each in options] == [("GPU-a", "GPU-b"), ("GPU-c", "GPU-d"), ("GPU-a", "GPU-b")]
    assert environment(options[1], {})["CUDA_VISIBLE_DEVICES"] == "GPU-c,GPU-d"
    assert engine_options(msgspec.structs.replace(two, executor="ray"), CUDA.weights, "r", 1).gpus == ()
    alone = environment(engine_options(StudentSettings(device="cuda"), CUDA.weights, "r", 1), {})
    assert "CUDA_VISIBLE_DEVICES" not in alone, "one server sees all of them, as ever"
    cores = len(os.sched_getaffinity(0))
    assert engine_options(StudentSettings(replicas=2), CPU.weights, "r", 1).threads == max(1, cores // 2)


@given(st.integers(0, 20), st.integers(1, 4), st.lists(st.text("0123456789", min_size=1), unique=True, max_size=9))
def test_servers_have_gpus_of_their_own_while_there_are_enough(slot: int, each: int, visible: list[str]):
    groups = len(visible) // each
    shares = [share_of(n, each, visible) for n in range(groups)]
    assert sorted(gpu for share in shares for gpu in share) == sorted(visible[: groups * each])
    assert share_of(slot, each, visible) in (shares or [()])


def test_threads_are_the_cores_this_process_may_use():
    options = EngineOptions(Path("/m"), "student", "rel-7", 1, 512, "cpu")
    assert options.threads == len(os.sched_getaffinity(0))


def test_every_server_has_a_guard_with_a_token_and_a_swap_opens_its_own_routes_behind_it():
    options = replace(CPU, swap="in_place")
    argv, env = command(options), environment(options, {})
    assert argv[argv.index("--middleware") + 1] == "serving.guard.ReleaseGuard"
    assert argv[argv.index("--fingerprint-value") + 1] == MARK
    assert env["VLLM_SERVER_DEV_MODE"] == "1"
    assert (env[RELEASE_VARIABLE], env[TOKEN_VARIABLE]) == ("rel-7", options.token)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in env
    assert options.token not in repr(options)
    one, other = (EngineOptions(options.weights, "student", "rel-7", 8123, 4096, "cpu").token for _ in range(2))
    assert one != other, "each has its own"
    assert len(one) >= 32


@pytest.mark.parametrize(("rank", "bound"), [(1, "1"), (4, "8"), (16, "16"), (100, "128")])
def test_a_server_of_adapters_takes_their_rank_and_stamps_each_with_its_own_name(rank, bound):
    options = replace(CPU, swap="adapter", lora_rank=rank)
    argv, env = command(options), environment(options, {})
    assert "--enable-lora" in argv
    assert argv[argv.index("--max-lora-rank") + 1] == bound
    assert env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert env[RELEASE_VARIABLE] == ""
    assert "VLLM_SERVER_DEV_MODE" not in env


def test_a_server_that_keeps_its_weights_opens_no_route():
    assert not any(name.startswith(("VLLM_SERVER", "VLLM_ALLOW")) for name in environment(CPU, {}))
