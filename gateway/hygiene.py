"""What is refused before a request reaches a handler: too large a header block, or not exactly one valid Host."""

import re
from typing import Any, Final

from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.errors import error_body
from gateway.messages.errors import shaped_error, speaks_anthropic
from gateway.wire import encode

__all__ = ("refuse_bad_headers",)

KIND: Final = "invalid_request_error"
HOST: Final = re.compile(rb"[A-Za-z0-9._\-]+(:\d{1,5})?|\[[0-9a-fA-F:.]+\](:\d{1,5})?")


def refuse_bad_headers(app: ASGIApp, max_header_bytes: int) -> ASGIApp:
    """Wrap an application with these checks."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = scope["headers"]
        size, hosts = 0, list[bytes]()
        for name, value in headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts.append(value)
        if size > max_header_bytes:
            error = error_body("The request's headers are too large.", KIND, "headers_too_large")
            await _refuse(scope["path"], send, 431, error)
            return
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
            error = error_body("The request needs exactly one valid Host header.", KIND, "invalid_host")
            await _refuse(scope["path"], send, 400, error)
            return
        await app(scope, receive, send)

    return checked


async def _refuse(path: str, send: Send, status: int, error: dict[str, Any]) -> None:
    body = encode(shaped_error(error["error"], status, None) if speaks_anthropic(path) else error)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
