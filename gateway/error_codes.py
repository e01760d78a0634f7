"""The codes of errors, each with its status and meaning. The type checker lets no other be answered.

docs/reference/errors.md is written from here.
"""

from typing import Final, Literal, TypeAlias

__all__ = ("CODES", "Code")

Code: TypeAlias = Literal[
    "client_closed",
    "content_not_kept",
    "csrf_token_missing",
    "file_in_use",
    "guarantee_lost",
    "headers_too_large",
    "idempotency_conflict",
    "idempotency_mismatch",
    "insufficient_permissions",
    "insufficient_quota",
    "internal_error",
    "invalid_api_key",
    "invalid_host",
    "method_not_allowed",
    "model_not_found",
    "not_found",
    "previous_response_not_found",
    "rate_limit_exceeded",
    "release_changed",
    "request_not_found",
    "request_too_large",
    "route_not_allowed",
    "server_is_overloaded",
    "service_unavailable",
    "shutting_down",
    "timeout",
    "unsupported_media_type",
    "unsupported_parameter",
    "upstream_error",
    "upstream_refused",
]

CODES: Final[dict[Code, tuple[str, str]]] = {
    "client_closed": ("499", "The client left before its answer was over. Only in the ledger: nobody reads it."),
    "content_not_kept": ("400", "The request's content is not in the ledger, so it cannot be corrected or replayed."),
    "csrf_token_missing": ("403", "A change from a page lacks the page's token: load the page again."),
    "file_in_use": ("409", "A batch that is not over reads the file that was to be deleted."),
    "guarantee_lost": ("400", "These thresholds lose the target; `accept_without_guarantee` sets them all the same."),
    "headers_too_large": ("431", "The header block is over its bound of bytes."),
    "idempotency_conflict": ("409", "The same request is under way under this `idempotency-key`."),
    "idempotency_mismatch": ("422", "This `idempotency-key` belongs to another request."),
    "insufficient_permissions": ("403", "The key is valid and lacks the scope that this needs."),
    "insufficient_quota": ("429", "The key's budget is spent; trying again does not help (`x-should-retry: false`)."),
    "internal_error": ("500", "Something that was not foreseen; the log has it under the request's id."),
    "invalid_api_key": ("401", "No key, or one that is unknown, revoked or expired."),
    "invalid_host": ("400", "Not exactly one valid Host header."),
    "method_not_allowed": ("405", "The path is there, and does not take this method."),
    "model_not_found": ("403, 404", "No such model or alias, or (403) one that the key's policy does not allow."),
    "not_found": ("404", "No such path or thing."),
    "previous_response_not_found": ("400", "There is no such response, or it is another key's."),
    "rate_limit_exceeded": ("429", "The key's requests, tokens or concurrency; `retry-after` says for how long."),
    "release_changed": ("400", "The thresholds were looked at on another release than the live one."),
    "request_not_found": ("404", "No such request, or it is another key's."),
    "request_too_large": ("413", "The body is over `gateway.max_body_bytes`."),
    "route_not_allowed": ("403", "The request needs a route that the key's policy does not allow."),
    "server_is_overloaded": ("429", "The gateway has as many requests as it takes (`gateway.max_in_flight`)."),
    "service_unavailable": ("503", "No upstream can answer, or the ledger cannot be reached."),
    "shutting_down": ("503", "The gateway is ending; another one, or the next, will answer."),
    "timeout": ("504", "The time of the whole request, or of the side that had to answer it, is over."),
    "unsupported_media_type": ("415", "The body is not JSON."),
    "unsupported_parameter": ("400", "Something of `/v1/responses` or `/v1/messages` that no model here does."),
    "upstream_error": ("in a stream", "The stream broke off after its first event; no `[DONE]` follows."),
    "upstream_refused": ("the upstream's", "The model's server refused the request in a shape that is not OpenAI's."),
}  # fmt: skip
