"""Small writes leave at once: no stream stalls 40 ms between Nagle's algorithm and a delayed acknowledgement."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway_fixtures import EASY, HARD, World
from tests.scripted_upstream import Script

OPEN_FILES = Path("/proc/self/fd")


def sockets() -> Iterator[socket.socket]:
    """Every connected TCP socket of this process, in which the gateway runs too."""
    for path in OPEN_FILES.iterdir():
        try:
            if not stat.S_ISSOCK(path.stat().st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(path.name)))
        except OSError:
            continue  # closed meanwhile
        with copy:
            if copy.family in (socket.AF_INET, socket.AF_INET6) and is_connected(copy):
                yield copy


def is_connected(each: socket.socket) -> bool:
    try:
        return bool(each.getpeername())
    except OSError:
        return False


def undelayed(local: int | None = None, remote: int | None = None) -> list[int]:
    """TCP_NODELAY of the sockets with these ports."""
    return [
        each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for each in sockets()
        if local in (None, each.getsockname()[1]) and remote in (None, each.getpeername()[1])
    ]


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="needs Linux's list of open files")
@pytest.mark.parametrize("text", [EASY, HARD], ids=["student", "teacher"])
def test_the_clients_and_the_upstreams_sockets_do_not_wait_to_fill_a_packet(world: World, text: str):
    upstream = world.student if text == EASY else world.teacher
    upstream.script = Script(text="word " * 40, logprob=-0.02, gap=0.01)
    world.chat(text)  # so that the stream below comes over connections that were kept alive
    with world.streaming(text) as answer:
        chunks = answer.iter_bytes()
        next(chunks)
        accepted, opened = undelayed(local=world.port), undelayed(remote=upstream.port)
    assert accepted
    assert set(accepted) == {1}
    assert opened
    assert set(opened) == {1}
