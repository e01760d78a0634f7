"""``stillroom serve`` on several machines of one store: processes with a home and an address of their own.

One machine plays them all, by its own addresses that are not loopback.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from ledger.store import sqlite_url
from serving.address import root_url
from serving.server import free_port
from tests.engine_fixtures import SMALL_CACHE, family
from tests.gateway_fixtures import running_world
from tests.swap_world import SwapWorld, always_student, patient

__all__ = ("KEY", "Machine", "machines", "own_addresses")

KEY = "sk-students-4f1d0c9be7a2"
SERVE = (sys.executable, "-m", "stillroom.cli", "serve")
STUDENTS = {
    "CONTEXT_TOKENS": "512",
    "DEVICE": "cpu",
    "KEEP_PREVIOUS_SECONDS": "0",
    "ENGINE_ARGS": str([*SMALL_CACHE]),
}


def own_addresses() -> list[str]:
    """The addresses of this machine by which others may reach it."""
    found = [each.address for listed in psutil.net_if_addrs().values() for each in listed]
    return [address for address in found if _is_ours(address)]


def _is_ours(address: str) -> bool:
    try:
        read = ip_address(address)
        free_port(address)
    except (ValueError, OSError):
        return False
    return not (read.is_loopback or read.is_link_local)


@dataclass
class Machine:
    """A keeper of students. ``log`` is what it says."""

    address: str
    log: Path
    process: subprocess.Popen[bytes]

    def has(self, url: str) -> bool:
        """Whether a student's URL is at its address."""
        return url.startswith(root_url(self.address, 0).removesuffix("0"))

    def alive(self) -> bool:
        """Whether it runs; one that ended by itself fails the test."""
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        return True

    def family(self) -> list[psutil.Process]:
        """The keeper and its servers."""
        return family(self.process.pid)

    def kill(self) -> None:
        """Without a word, by SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def machines(home: Path, addresses: Sequence[str]) -> Iterator[tuple[SwapWorld, list[Machine]]]:
    """A gateway that sends everything to the students, and a keeper of them at each address."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("STUDENT_API_KEY", KEY)
        world = stack.enter_context(running_world(home, None, patient))
        world.keeper.close()
        started = [_serve(home / f"machine{number}", each, home) for number, each in enumerate(addresses)]
        for machine in started:
            stack.callback(machine.process.wait, 60)
            stack.callback(machine.process.terminate)
        yield SwapWorld(world, always_student()), started


def _serve(own: Path, address: str, shared: Path) -> Machine:
    own.mkdir()
    values = {"HOME": str(own), "STORE__URL": sqlite_url(shared), "STUDENT__ADDRESS": address}
    values |= {f"STUDENT__{name}": value for name, value in STUDENTS.items()}
    variables = {f"STILLROOM_{name}": value for name, value in values.items()}
    with (own / "serve.log").open("wb") as output:
        process = subprocess.Popen(SERVE, env=os.environ | variables, stdout=output, stderr=output, cwd=own)
    return Machine(address, own / "serve.log", process)
