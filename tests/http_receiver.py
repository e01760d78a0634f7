"""A small HTTP server that keeps what is posted to it, and answers as a test says: a real receiver, over sockets."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ("Posted", "Receiver")


@dataclass(frozen=True)
class Posted:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers ``status`` after those of ``first``; ``before`` is called when a request is whole and not answered."""

    status: int = 200
    first: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    before: Callable[[Posted], None] | None = None
    posted: list[Posted] = field(default_factory=list)

    def __post_init__(self) -> None:
        receiver, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                posted = Posted(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                with lock:
                    receiver.posted.append(posted)
                    status = receiver.first.pop(0) if receiver.first else receiver.status
                if receiver.before is not None:
                    receiver.before(posted)
                self.send_response(status)
                for name, value in {"content-length": "0", **receiver.headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def reset(self, first: Iterable[int] = (), status: int = 200) -> None:
        """Forget what came."""
        self.posted, self.first, self.status, self.headers, self.before = [], list(first), status, {}, None

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)
