"""The launcher, with small commands in vLLM's place: whoever is killed, the group ends."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from serving import launch

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
FAMILY_CODE = (
    "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "print('up', flush=True); c.wait()"
)
FAMILY = [sys.executable, "-c", FAMILY_CODE]
PARENT = (
    "import os, subprocess, sys;"
    "p = subprocess.Popen([sys.executable, '-I', sys.argv[1], str(os.getpid()), *sys.argv[2:]],"
    " start_new_session=True); p.wait()"
)


def launched(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", launch.__file__, str(os.getpid()), *command],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def gone(processes: list[psutil.Process], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("code", "status"),
    [
        pytest.param("import sys; sys.exit(3)", 3, id="its own status"),
        pytest.param("import os; os.kill(os.getpid(), 9)", 137, id="128 and the signal"),
    ],
)
def test_the_status_is_the_commands(code, status):
    with launched([sys.executable, "-c", code]) as process:
        assert process.wait(30) == status


def test_sigterm_is_passed_on_to_the_command():
    with launched(SLEEPER) as process:
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM


def test_a_killed_parent_takes_the_whole_group_with_it():
    command = [sys.executable, "-c", PARENT, launch.__file__, *FAMILY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "up\n"
        group = psutil.Process(parent.pid).children(recursive=True)
        assert len(group) == 3
        parent.kill()
        assert gone(group)


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_killed_launcher_takes_the_command_with_it():
    with launched(SLEEPER) as process:
        assert process.stdout.readline() == "up\n"
        children = psutil.Process(process.pid).children()
        process.kill()
        assert gone(children)
