"""Browser sessions of the ops pages: a signed cookie that names a key, so that every worker process takes it.

Nothing is stored: the cookie holds the key's id, its end and a random value, under an HMAC with a secret of this
home. The key is looked up at each request, so that a revoked one ends its sessions at once. What changes something
must carry a token too (`x-csrf-token`) that only our own pages can read.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote

from litestar import Request, Response, post
from litestar.connection import ASGIConnection

from gateway.errors import AuthenticationError, BadRequest, PermissionDenied
from gateway.exchange import body_of, headers_of
from ledger.keys import Key
from ledger.store import now_ms

__all__ = ("COOKIE", "HOURS", "Sessions", "handlers", "sent_to_login", "session_key")

COOKIE: Final = "stillroom_session"
HOURS: Final = 12
MAX_BODY: Final = 4_096
SAFE_METHODS: Final = ("GET", "HEAD")
SECRET_FILE: Final = "session.key"  # noqa: S105 a file's name
SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Sessions:
    """Issues cookies and reads them. ``secret`` is shared by the worker processes of one home."""

    secret: bytes

    @staticmethod
    def of(home: Path) -> "Sessions":
        """With the home's secret, made where there is none yet. Raises ``OSError``."""
        path = home / SECRET_FILE
        home.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            unfinished = home / f".{SECRET_FILE}.{os.getpid()}"
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
            # another worker process may be faster; both then read the same one
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(unfinished)
            unfinished.unlink()
        return Sessions(path.read_bytes())

    def issue(self, key_id: str) -> str:
        """The value of a cookie for this key, good for `HOURS`."""
        claim = f"{key_id}.{now_ms() + HOURS * 3_600_000}.{secrets.token_hex(8)}"
        return f"{claim}.{self._mac('session', claim)}"

    def read(self, value: str) -> str | None:
        """The key's id that a cookie's value names, or None for one that we did not issue, or whose time is over."""
        claim, _, mac = value.rpartition(".")
        parts = claim.split(".")
        if len(parts) != 3 or not hmac.compare_digest(mac.encode(), self._mac("session", claim).encode()):
            return None
        return parts[0] if int(parts[1]) > now_ms() else None

    def csrf(self, value: str) -> str:
        """The token that a change by this session must carry."""
        return self._mac("csrf", value)

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.new(self.secret, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def session_key(connection: ASGIConnection[Any, Any, Any, Any]) -> Key | None:
    """The key of the request's session, or None where it has none that is good.

    Raises `PermissionDenied` for a change without its token.
    """
    value = connection.cookies.get(COOKIE)
    if value is None:
        return None
    sessions: Sessions = connection.app.state.sessions
    key_id = sessions.read(value)
    found = (key for key in connection.app.state.live.snapshot.keys.values() if key.id == key_id)
    key = next(found, None) if key_id else None
    if key is None:
        return None
    token = sessions.csrf(value)
    sent = headers_of(connection).get("x-csrf-token", "")
    if connection.scope.get("method") not in SAFE_METHODS and not hmac.compare_digest(sent.encode(), token.encode()):
        raise PermissionDenied("this change lacks its token: load the page again", code="csrf_token_missing")
    connection.scope["state"]["csrf"] = token
    return key


@post("/ops/session", opt={"scope": "public"}, status_code=303)
async def log_in(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Begin a session of the pages: a form with ``key``, and ``next``, the page to go on to."""
    form = await _form(request)
    target = form.get("next", "/ops")
    # a path of the pages, and nothing that a browser could take for another host
    safe = target if target.startswith("/ops") and not target.startswith("/ops/login") else "/ops"
    key: Key | None = await request.app.state.live.key_of(form.get("key", "").strip())
    if key is None:
        return _to(f"/ops/login?refused=key&next={quote(safe)}")
    if not {"read", "admin"} & set(key.scopes):
        return _to(f"/ops/login?refused=scope&next={quote(safe)}")
    answer = _to(safe)
    _set_cookie(request, answer, request.app.state.sessions.issue(key.id), HOURS * 3_600)
    return answer


@post("/ops/session/end", opt={"scope": "public"}, status_code=303)
async def log_out(request: Request[Any, Any, Any]) -> Response[bytes]:
    """End the browser's session."""
    answer = _to("/ops/login")
    _set_cookie(request, answer, "", 0)
    return answer


async def _form(request: Request[Any, Any, Any]) -> dict[str, str]:
    body = await body_of(request)
    if len(body) > MAX_BODY:
        raise BadRequest("the form is too large")
    try:
        return {name: values[0] for name, values in parse_qs(body.decode()).items()}
    except UnicodeDecodeError as error:
        raise BadRequest("the form is not UTF-8") from error


def _to(path: str) -> Response[bytes]:
    return Response(b"", status_code=303, headers={"location": path, "cache-control": "no-store"})


def _set_cookie(request: Request[Any, Any, Any], answer: Response[bytes], value: str, seconds: int) -> None:
    answer.set_cookie(
        COOKIE, value, max_age=seconds, httponly=True, samesite="strict", path="/",
        secure=request.url.scheme == "https" or headers_of(request).get("x-forwarded-proto") == "https",
    )  # fmt: skip


def sent_to_login(connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationError:
    """What a browser without a session is answered: the page where one begins."""
    query = connection.scope.get("query_string", b"").decode("latin-1")
    wanted = connection.url.path + (f"?{query}" if query else "")
    return AuthenticationError("Log in first.", headers={"location": f"/ops/login?next={quote(wanted)}"})


handlers = [log_in, log_out]
