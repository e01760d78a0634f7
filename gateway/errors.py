"""The gateway's errors, in OpenAI's shape, and in Anthropic's below its path.

ApiError                    status, message, type, param, code, headers
+- BadRequest           400 invalid_request_error
+- AuthenticationError  401 invalid_request_error / invalid_api_key
+- PermissionDenied     403 insufficient_permissions
+- NotFound             404 model_not_found, ...
+- Conflict             409 idempotency_conflict
+- Mismatch             422 idempotency_mismatch
+- RateLimited          429 rate_limit_exceeded, server_is_overloaded
+- QuotaExceeded        429 insufficient_quota
+- Unavailable          503 service_unavailable
+- TimedOut             504 timeout
UpstreamError               could not be reached, broke off or answered 5xx (raised at gateway/upstream.py,
                            gateway/attempts.py and gateway/streams.py; gateway/relay.py turns it into another
                            route, Unavailable or TimedOut)
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException
from sqlalchemy.exc import DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.error_codes import Code
from gateway.exchange import ClientGone
from gateway.messages.errors import shaped_error, speaks_anthropic
from gateway.wire import NotJson, decode_object, encode
from ledger.request_ids import new_id
from ledger.store import now_ms

__all__ = (
    "ApiError",
    "AuthenticationError",
    "BadRequest",
    "Conflict",
    "Fault",
    "Mismatch",
    "NotFound",
    "PermissionDenied",
    "QuotaExceeded",
    "RateLimited",
    "TimedOut",
    "Unavailable",
    "UpstreamError",
    "error_body",
    "error_parts",
    "exception_handlers",
    "refusal_body",
    "request_id",
    "unavailable",
)

SEE_OTHER: Final = 303

log = structlog.get_logger(__name__)


class ApiError(Exception):
    """An error that is answered to the client as it is."""

    status = 500
    type = "server_error"
    default_code: Code | None = None

    def __init__(
        self,
        message: str,
        *,
        code: Code | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code: Code | None = code or self.default_code
        self.param = param
        self.headers = dict(headers or {})


class BadRequest(ApiError):
    """The request cannot be understood."""

    status, type = 400, "invalid_request_error"


class AuthenticationError(ApiError):
    """No key, or one that is not valid."""

    status, type, default_code = 401, "invalid_request_error", "invalid_api_key"


class PermissionDenied(ApiError):
    """A valid key without the scope that this needs."""

    status, type, default_code = 403, "invalid_request_error", "insufficient_permissions"


class NotFound(ApiError):
    """A model, a path or a thing that is not there."""

    status, type, default_code = 404, "invalid_request_error", "not_found"


class Conflict(ApiError):
    """The same request is under way."""

    status, type, default_code = 409, "invalid_request_error", "idempotency_conflict"


class Mismatch(ApiError):
    """An idempotency key that belongs to another request."""

    status, type, default_code = 422, "invalid_request_error", "idempotency_mismatch"


class RateLimited(ApiError):
    """The key's limit is used up for now."""

    status, type, default_code = 429, "rate_limit_error", "rate_limit_exceeded"


class QuotaExceeded(ApiError):
    """The key's budget is spent. Waiting a little does not help, and OpenAI's clients are told not to try."""

    status, type, default_code = 429, "insufficient_quota", "insufficient_quota"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class Unavailable(ApiError):
    """No upstream can answer now."""

    status, default_code = 503, "service_unavailable"


class TimedOut(ApiError):
    """The time of the whole request, or of the side that had to answer it, is over."""

    status, default_code = 504, "timeout"


Fault = Literal["connect", "closed", "busy", "failed", "late", "broken", "refused", "deadline", "open"]
"""What went wrong at an upstream: no connection; closed before a byte of the answer; 500, 502, 503 or 504; another
5xx; no bytes in time; broke off or cannot be read; our key or our URL refused; the request's time is over; not asked
at all, since its breaker is open.
"""


class UpstreamError(Exception):
    """A student or teacher that could not be reached, broke off, refused our key, or answered 5xx."""

    def __init__(self, upstream: str, why: str, retry_after: str | None = None, fault: Fault = "broken") -> None:
        super().__init__(f"the {upstream} {why}")
        self.upstream = upstream
        self.retry_after = retry_after
        self.fault: Fault = fault


def error_body(message: str, kind: str, code: Code | None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal_body(body: bytes) -> bytes:
    """An upstream's error body as it came, or one of ours where it has not OpenAI's shape."""
    try:
        shaped = isinstance(decode_object(body).get("error"), dict)
    except NotJson:
        shaped = False
    if shaped:
        return body
    message = "The model's server refused the request."
    return encode(error_body(message, "invalid_request_error", "upstream_refused"))


def unavailable(message: str, error: UpstreamError) -> ApiError:
    """The answer to an upstream's fault that no other route makes up for; it passes on when to try again."""
    if error.fault == "deadline":
        return TimedOut(message)
    return Unavailable(message, headers={"retry-after": error.retry_after} if error.retry_after else None)


def request_id(request: Request[Any, Any, Any]) -> str:
    """The id that this request's answer carries, whatever comes of it."""
    state = request.scope["state"]
    found = state.get("request_id")
    if found is None:
        found = state["request_id"] = new_id(now_ms())
    return found


def _response(
    request: Request[Any, Any, Any], status: int, body: dict[str, Any], headers: Mapping[str, str]
) -> Response[bytes]:
    return Response(
        _shaped(request, status, body),
        status_code=status,
        media_type="application/json",
        headers=_headers(request, headers),
    )


def _shaped(request: Request[Any, Any, Any], status: int, body: dict[str, Any]) -> bytes:
    if speaks_anthropic(request.scope["path"]):
        body = shaped_error(body["error"], status, request_id(request))
    return encode(body)


def _headers(request: Request[Any, Any, Any], headers: Mapping[str, str]) -> dict[str, str]:
    limits: dict[str, str] = request.scope["state"].get("limit_headers", {})
    of_request = request_id(request)
    own = {"x-request-id": of_request}
    if speaks_anthropic(request.scope["path"]):
        own["request-id"] = of_request
    return limits | dict(headers) | own


def error_parts(request: Request[Any, Any, Any], error: ApiError) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an error's answer."""
    body = error_body(error.message, error.type, error.code, error.param)
    return error.status, _headers(request, error.headers), _shaped(request, error.status, body)


def _api_error(request: Request[Any, Any, Any], error: ApiError) -> Response[bytes]:
    status, headers, body = error_parts(request, error)
    if "location" in headers:
        status = SEE_OTHER
    return Response(body, status_code=status, media_type="application/json", headers=headers)


_http_codes: dict[int, Code] = {
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
}


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    if isinstance(error, NotAuthorizedException | PermissionDeniedException):
        return _api_error(request, PermissionDenied(error.detail))
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    body = error_body(error.detail, kind, _http_codes.get(error.status_code))
    return _response(request, error.status_code, body, error.headers or {})


def _store_away(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.warning("store_unreachable", path=request.url.path, error=str(error).splitlines()[0])
    return _api_error(request, Unavailable("The ledger cannot be reached now.", headers={"retry-after": "5"}))


def _internal_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    # the outermost seam: whatever was not foreseen is logged whole and answered without detail
    log.error("internal_error", path=request.url.path, request_id=request_id(request), exc_info=error)
    body = error_body("The gateway had an internal error.", "server_error", "internal_error")
    return _response(request, 500, body, {})


def _client_gone(_request: Request[Any, Any, Any], _error: Exception) -> Response[bytes]:
    # nobody is there to read it
    return Response(b"", status_code=499)


exception_handlers: dict[Any, Any] = {
    ApiError: _api_error,
    ClientGone: _client_gone,
    HTTPException: _http_error,
    **dict.fromkeys((DisconnectionError, InterfaceError, OperationalError, PoolTimeout), _store_away),
    Exception: _internal_error,
}
