"""What is refused before a request reaches a handler: too large a header block, or not exactly one valid Host."""

import re
from typing import Final

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.error_codes import Code
from gateway.errors import error_body

__all__ = ("refuse_bad_headers",)

HOST: Final = re.compile(rb"[A-Za-z0-9._\-]+(:\d{1,5})?|\[[0-9a-fA-F:.]+\](:\d{1,5})?")


def refuse_bad_headers(app: ASGIApp, max_header_bytes: int) -> ASGIApp:
    """Wrap an application with these checks."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = scope["headers"]
        if sum(len(name) + len(value) + 4 for name, value in headers) > max_header_bytes:
            await _refuse(send, 431, "The request's headers are too large.", "headers_too_large")
            return
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
            await _refuse(send, 400, "The request needs exactly one valid Host header.", "invalid_host")
            return
        await app(scope, receive, send)

    return checked


async def _refuse(send: Send, status: int, message: str, code: Code) -> None:
    body = msgspec.json.encode(error_body(message, "invalid_request_error", code))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
