"""Who may call what: a scope per route handler, denied by default."""

import base64
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from gateway.errors import AuthenticationError, PermissionDenied
from gateway.exchange import headers_of
from gateway.sessions import sent_to_login, session_key
from ledger.keys import Key

__all__ = ("PUBLIC", "authorise", "opt")

PUBLIC: Final = "public"
OF_PAGES: Final = ("read", "admin")
"""What a browser's session may do; a model is never asked by one."""


def opt(scope: str, short_way: bool = False) -> dict[str, Any]:
    """What a route handler declares: the scope that its caller needs, and whether `gateway/front.py` may call it."""
    return {"scope": scope, "short_way": short_way}


async def authorise(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The application's guard. A handler that declares no scope is closed to everyone.

    Raises `AuthenticationError` or `PermissionDenied`.
    """
    scope = handler.opt.get("scope")
    if scope is None:
        raise PermissionDenied("this path is closed")
    if scope == PUBLIC or not connection.app.state.auth_required:
        return
    key = await _key(connection, scope)
    if scope not in key.scopes and "admin" not in key.scopes:
        raise PermissionDenied(f"this key lacks the scope '{scope}'")
    connection.scope["state"]["key"] = key


async def _key(connection: ASGIConnection[Any, Any, Any, Any], scope: str) -> Key:
    headers = headers_of(connection)
    header = headers.get("authorization", "")
    if not header and "x-api-key" in headers:
        # as Anthropic's clients send it
        header = f"Bearer {headers['x-api-key']}"
    if not header and scope in OF_PAGES:
        key = session_key(connection)
        if key is not None:
            return key
    scheme, _, credentials = header.partition(" ")
    secret = credentials.strip() if scheme.lower() == "bearer" else _basic_password(scheme, credentials)
    if not secret:
        if _is_browser(connection):
            raise sent_to_login(connection)
        raise AuthenticationError("You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`.")
    key = await connection.app.state.live.key_of(secret)
    if key is None:
        raise AuthenticationError("Incorrect API key provided, or one that has expired or was revoked.")
    return key


def _basic_password(scheme: str, credentials: str) -> str:
    """A browser sends the key as the password of HTTP Basic; the user name is free."""
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _is_browser(connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    return "text/html" in headers_of(connection).get("accept", "")
