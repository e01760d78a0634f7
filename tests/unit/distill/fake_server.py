"""A fake of a paid server: a judge or embeddings that a test scripts, over real sockets."""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[str, dict[str, Any]], Any]
"""From path and body to the answer; a number is a status."""
PLACES = re.compile(r"\[answer (A|B) \w+\]\n(.*?)\n\[end of answer", re.DOTALL)


class Listener(ThreadingHTTPServer):
    """Python's own lets five connections wait, and an evaluation opens more at once."""

    request_queue_size = 128


@dataclass
class FakeServer:
    """``url`` is its base URL; ``seen`` has the paths, bodies and keys as they arrived."""

    script: Script
    seen: list[tuple[str, dict[str, Any], str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                fake.seen.append((self.path, body, self.headers["authorization"]))
                answer = fake.script(self.path, body)
                status = answer if isinstance(answer, int) else 200
                sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = Listener(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def says(content: Any) -> dict[str, Any]:
    """A chat's answer."""
    usage = {"prompt_tokens": 100, "completion_tokens": 5}
    return {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": usage}


def places(body: dict[str, Any]) -> dict[str, str]:
    """What stands at A and at B of a judge's prompt."""
    return dict(PLACES.findall(body["messages"][-1]["content"]))


def prefers(best: Callable[[str], float]) -> Script:
    """A judge without favour for a place: the answer that is worth more."""

    def script(_path: str, body: dict[str, Any]) -> dict[str, Any]:
        a, b = (best(places(body)[place]) for place in "AB")
        return says(json.dumps({"verdict": "tie" if a == b else "A" if a > b else "B"}))

    return script
