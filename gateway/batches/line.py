"""One line of a batch: read, asked as its key would ask, and written down as OpenAI writes it."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler

from gateway.front import answer_of_error
from gateway.wire import NotJson, as_written, decode_object, encode, mapping
from ledger.batches import Batch
from ledger.request_ids import id_named

__all__ = (
    "ENDPOINTS",
    "Answered",
    "Line",
    "LineError",
    "ask",
    "failure",
    "number_of",
    "read_line",
    "request_id_of",
    "result",
)

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
"""What a batch may ask."""
MAX_NAME: Final = 512
LIMITED: Final = 429


class LineError(ValueError):
    """A line that cannot be asked."""

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.custom_id = custom_id


@dataclass(frozen=True, slots=True)
class Line:
    """A request of a batch, its body in the client's own bytes."""

    custom_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def pause(self) -> float | None:
        """Seconds until it may be asked again, where a limit of its key did not let it in; None where it stands."""
        limited = self.status == LIMITED and "x-stillroom-route" not in self.headers
        return float(self.headers["retry-after"]) if limited and "retry-after" in self.headers else None

    @property
    def code(self) -> str | None:
        """Of its error, if it is one."""
        try:
            return mapping(decode_object(self.body).get("error")).get("code") if self.status >= 400 else None
        except NotJson:
            return None


def read_line(raw: bytes, endpoint: str, max_bytes: int) -> Line:
    """Raises `LineError`."""
    if len(raw) > max_bytes:
        raise LineError("request_too_large", f"The line has more than {max_bytes} bytes.")
    try:
        fields = decode_object(raw)
    except NotJson as error:
        raise LineError("invalid_json_line", f"This line is not parseable as a JSON object: {error}") from error
    name = fields.get("custom_id")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise LineError("invalid_custom_id", f"'custom_id' must be a string of 1 to {MAX_NAME} characters.")
    if fields.get("method") != "POST":
        raise LineError("invalid_method", "'method' must be POST.", name)
    if fields.get("url") != endpoint:
        raise LineError("mismatched_endpoint", f"'url' must be the batch's endpoint, {endpoint}.", name)
    body = fields.get("body")
    if not isinstance(body, dict):
        raise LineError("invalid_body", "'body' must be an object.", name)
    if mapping(body).get("stream"):
        raise LineError("invalid_body", "A request of a batch cannot be streamed.", name)
    return Line(name, bytes(as_written(raw)["body"]))


async def ask(app: Litestar, handler: HTTPRouteHandler, state: dict[str, Any], body: bytes) -> Answered:
    """Ask as a caller would. ``state`` is the request's: its id, and the key that pays."""
    endpoint = next(iter(handler.paths))
    scope: Any = {
        "type": "http", "http_version": "1.1", "scheme": "http", "method": "POST", "path": endpoint,
        "raw_path": endpoint.encode(), "root_path": "", "query_string": b"", "headers": [], "path_params": {},
        "client": None, "server": None, "state": state, "app": app, "litestar_app": app, "route_handler": handler,
    }  # fmt: skip
    status, headers, parts = 0, dict[str, str](), list[bytes]()

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            headers.update((name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"])
        else:
            parts.append(message["body"])

    request: Request[Any, Any, Any] = Request(scope, receive, send)
    try:
        answer = await handler.fn(request)
    except Exception as error:  # noqa: BLE001 the outermost seam: what was not foreseen costs a line, not its batch
        answer = answer_of_error(error, request, app)
    await answer(scope, receive, send)
    return Answered(status, headers, b"".join(parts))


def request_id_of(batch: Batch, number: int, attempt: int) -> str:
    """The same at every try that left no row in the ledger, so that a line has one. A batch's lie together there."""
    return id_named(batch.created_at, f"{batch.id} {number} {attempt}")


def result(batch_id: str, number: int, line: Line, answer: Answered) -> bytes:
    """A line of the output, or of the errors where the status says so."""
    body: Any = answer.body.decode("utf-8", "replace")
    with contextlib.suppress(NotJson):
        body = decode_object(answer.body)
        # in the server's own bytes, where they are one line
        body = body if b"\n" in answer.body else msgspec.Raw(answer.body)
    response = {"status_code": answer.status, "request_id": answer.headers.get("x-request-id"), "body": body}
    return _written(batch_id, number, line.custom_id, response, None)


def failure(batch_id: str, number: int, error: LineError) -> bytes:
    """A line of the errors for one that was not asked."""
    return _written(batch_id, number, error.custom_id, None, {"code": error.code, "message": str(error)})


def number_of(written: bytes) -> int:
    """Which line of its batch a result belongs to."""
    return int(decode_object(written)["id"].rpartition("_")[2])


def _written(batch_id: str, number: int, custom_id: str | None, response: Any, error: Any) -> bytes:
    name = f"batch_req_{batch_id.removeprefix('batch_')}_{number}"
    return encode({"id": name, "custom_id": custom_id, "response": response, "error": error}) + b"\n"
