"""A real Redis of the session's own, on a port of the loopback, emptied before each test that asks for it."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.server import free_port

START_S = 10.0


class RedisServer:
    """One server; what it holds is gone when it stops."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            self._folder,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + START_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
            except ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
            else:
                return

    def client(self):
        """A connection of the test's own."""
        redis = pytest.importorskip("redis")

        @contextlib.contextmanager
        def opened():
            client = redis.Redis.from_url(self.url)
            try:
                yield client
            except redis.ConnectionError as error:
                raise ConnectionError(str(error)) from error
            finally:
                client.close()

        return opened()

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """As if it were killed."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Have it take connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.stop()
        shutil.rmtree(self._folder)


@pytest.fixture(scope="session")
def redis_of_session() -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    pytest.importorskip("redis", reason="the client of Redis, of the extra `redis`, is not installed")
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture
def redis_server(redis_of_session: RedisServer) -> RedisServer:
    """The session's server, with nothing in it."""
    with redis_of_session.client() as client:
        client.flushall()
    return redis_of_session
