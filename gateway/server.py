"""uvicorn as the gateway runs it: bounded waits and buffers for each client, and an end in two steps."""

import asyncio
import gc
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any, Final, cast

import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.exchange import Exchange, Peer
from gateway.front import front
from gateway.settings import GatewaySettings

__all__ = ("HEAD_S", "Server", "ignore_signals", "listen", "make_server", "settle_process")

HEAD_S: Final = 30.0
"""Longest time for a request's head, from its first byte or from the connection on."""
SEND_BUFFER: Final = 64 * 1024
"""The kernel's buffer for a client that reads slowly; it would grow to megabytes."""
BACKLOG: Final = 2048
GC_THRESHOLDS: Final = (20_000, 20, 50)
TURN_S: Final = 0.0005
"""How long a thread keeps the interpreter from the event loop; Python's own 5 ms would be seen by clients."""


class _Protocol(HttpToolsProtocol):
    """Closes a connection whose client begins a request's head and does not end it."""

    _late: asyncio.TimerHandle | None = None
    _peer: Peer

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A client connected."""
        super().connection_made(transport)
        self._peer = Peer()
        self._late = self.loop.call_later(HEAD_S, transport.close)

    def data_received(self, data: bytes) -> None:
        """Bytes came, of a head or of a body."""
        super().data_received(data)
        # uvicorn has no cycle until a connection's first head is whole
        in_head = not self.cycle or self.cycle.response_complete
        if self._late is not None and not in_head:
            self._late.cancel()
            self._late = None
        elif self._late is None and in_head:
            self._late = self.loop.call_later(HEAD_S, self.transport.close)

    def on_headers_complete(self) -> None:
        """A request's head is whole; its task begins with the loop's next turn."""
        super().on_headers_complete()
        Exchange(self._peer, self.cycle).begin(self.scope.setdefault("state", {}))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._peer.leave()
        if self._late is not None:
            self._late.cancel()


class Server(uvicorn.Server):
    """Told to end, it is no longer ready; after ``drain_delay_seconds`` it takes no new connection and drains."""

    def __init__(self, config: uvicorn.Config, app: Litestar) -> None:
        super().__init__(config)
        self._app = app
        self.drain_delay_s = 0.0
        self._ends_at: float | None = None

    def configure(self, settings: GatewaySettings) -> None:
        """How it ends, from now on."""
        self.drain_delay_s = settings.drain_delay_seconds
        self.config.timeout_graceful_shutdown = int(settings.drain_seconds)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT; a second one ends the delay."""
        self._app.state.draining = True
        if self.drain_delay_s and self._ends_at is None:
            self._ends_at = time.monotonic() + self.drain_delay_s
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int, shared: bool = False) -> socket.socket:
    """The socket to serve on; ``shared`` with others, among which connections are spread. Raises ``OSError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return listener


def make_server(app: Litestar, settings: GatewaySettings) -> Server:
    """The application behind its server, to be run on a socket of `listen`."""
    config = uvicorn.Config(
        cast("Any", front(app, settings.max_header_bytes)),
        loop="uvloop",
        http=_Protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
    )
    server = Server(config, app)
    server.configure(settings)
    return server


def settle_process() -> None:
    """What is there now stays: the garbage collector need not walk it again, nor come for every few objects. And no
    other thread holds up the event loop for long.
    """
    sys.setswitchinterval(TURN_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def ignore_signals() -> None:
    """Take the signals that uvicorn raises again when it has drained, so that an orderly end has status 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
