"""A scripted teacher: a fake of the frontier model, since there is no key for a real one in a test.

It sorts requests by their first word, and gives the log-probabilities of a teacher that is almost sure.
"""

import contextlib
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.engine_fixtures import smollm2_tokenizer

ANSWERS = {"parcel": "tracking", "invoice": "billing", "broken": "damage"}


class ScriptedTeacher(BaseHTTPRequestHandler):
    """Answers ``POST /v1/chat/completions``."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = ANSWERS[body["messages"][-1]["content"].split()[0]]
        logprobs = {"content": spelled(answer)} if body.get("logprobs") else None
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
        whole = {
            "id": "chatcmpl-scripted",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
        }
        sent = json.dumps(whole).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def spelled(answer: str) -> list[dict[str, Any]]:
    """OpenAI's ``logprobs.content`` of an answer, with one alternative for each token."""
    tokenizer = smollm2_tokenizer()
    pieces = [tokenizer.decode([token]) for token in tokenizer(answer, add_special_tokens=False).input_ids]
    return [entry(piece, 0.97) | {"top_logprobs": [entry(piece, 0.97), entry("other", 0.02)]} for piece in pieces]


def entry(piece: str, probability: float) -> dict[str, Any]:
    return {"token": piece, "logprob": math.log(probability), "bytes": list(piece.encode())}


@contextlib.contextmanager
def scripted_teacher() -> Iterator[str]:
    """A running one; its base URL."""
    server = _Server(("127.0.0.1", 0), ScriptedTeacher)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
