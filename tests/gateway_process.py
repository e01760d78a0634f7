"""``stillroom gateway`` as a process of its own over a home folder, to be killed, measured and asked."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import sqlalchemy as sa

from ledger import keys, schema
from ledger.store import Store, open_store, sqlite_url
from serving.server import free_port
from tests.gateway_fixtures import TEACHER_KEY, wait_until
from tests.scripted_upstream import WAIT_S

KEY_ENV = "THE_TEACHERS_KEY"
HEAD = """
home = "{home}"
[gateway]
port = {port}
"""
CONFIG = "stillroom.toml"
MAIN = "\nfrom stillroom.cli import main; main()"


@dataclass
class GatewayProcess:
    """The process, its store as another process sees it, and a key for it."""

    home: Path
    store: Store
    secret: str
    url: str
    prelude: str
    process: subprocess.Popen[bytes] | None = None
    probe: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=WAIT_S))

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}

    @property
    def system(self) -> psutil.Process:
        """For its memory and its open files."""
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def start(self) -> None:
        with (self.home / "gateway.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self.prelude + MAIN, "--config", str(self.home / CONFIG), "gateway"],
                stdout=output, stderr=output, env=os.environ | {KEY_ENV: TEACHER_KEY},
            )  # fmt: skip
        wait_until(self.ready, 30)

    def ready(self) -> bool:
        assert self.process is None or self.process.poll() in (None, 0, -signal.SIGKILL), self.log()[-2000:]
        with contextlib.suppress(httpx.TransportError):
            return self.probe.get(f"{self.url}/readyz").status_code == 200
        return False

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def recorded(self) -> list[str]:
        """The ids of the ledger's rows."""
        with self.store.read() as connection:
            return list(connection.execute(sa.select(schema.requests.c.id)).scalars())

    def rolled_up(self) -> int:
        """Requests that the hourly sums count."""
        with self.store.read() as connection:
            return connection.execute(sa.select(sa.func.sum(schema.usage_hourly.c.requests))).scalar_one() or 0

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = self.probe.get(f"{self.url}/metrics").text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    def log(self) -> str:
        return (self.home / "gateway.log").read_text()


@contextlib.contextmanager
def gateway_process(
    home: Path, settings: str, prelude: str = "", store_url: str | None = None
) -> Iterator[GatewayProcess]:
    """A gateway that was not started yet. ``settings`` follow on the first lines of its ``[gateway]`` table, and name
    the store too, where that is at a ``store_url``.

    ``prelude`` is Python that the process runs first, to shorten a constant that a test would wait for.
    """
    port = free_port()
    (home / CONFIG).write_text(HEAD.format(home=home, port=port) + settings)
    store = open_store(store_url or sqlite_url(home))
    _, secret = keys.create(store, "app", ["inference"], "test")
    gateway = GatewayProcess(home, store, secret, f"http://127.0.0.1:{port}", prelude)
    try:
        yield gateway
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.process.kill()
            gateway.process.wait()
        gateway.probe.close()
        store.close()
