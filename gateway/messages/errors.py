"""Anthropic's shape of an error, made from OpenAI's, which the gateway and its upstreams speak."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.wire import string

__all__ = ("shaped_error", "speaks_anthropic")

ROOT: Final = "/v1/messages"
TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""By status; any other 4xx is an invalid request, any other status a fault of the API."""


def speaks_anthropic(path: str) -> bool:
    """Whether whoever asks for this path reads errors in Anthropic's shape."""
    return path == ROOT or path.startswith(f"{ROOT}/")


def shaped_error(error: Mapping[str, Any], status: int, request_id: str | None) -> dict[str, Any]:
    """The body for OpenAI's ``error``. Its code is kept where Anthropic's clients look for one."""
    message, param, code = string(error.get("message")), error.get("param"), error.get("code")
    other = "invalid_request_error" if status < 500 else "api_error"
    shaped: dict[str, Any] = {"type": TYPES.get(status, other), "message": message}
    if isinstance(param, str) and param not in message:
        shaped["message"] = f"{param}: {message}"
    if isinstance(code, str):
        shaped["details"] = {"error_code": code}
    return {"type": "error", "error": shaped, "request_id": request_id}
