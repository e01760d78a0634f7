"""The receivers of webhooks, from the settings; what they are sent, and one attempt to send it."""

import asyncio
import base64
import binascii
import hmac
import os
import re
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import httpx

from gateway.settings import WebhookSettings
from gateway.wire import encode
from ledger.outbox import KINDS, Message

__all__ = (
    "Attempted", "Endpoint", "WebhookError", "matches", "open_webhook_client", "payload", "post",
    "problem_with", "signatures",
)  # fmt: skip

NAME: Final = re.compile("[a-z0-9][a-z0-9_-]{0,62}")
PREFIX: Final = "whsec_"
MIN_SECRET, MAX_SECRET = 24, 64
"""Bytes of a signing secret, by the standard."""
TIMEOUT_S: Final = 15.0
MAX_WAIT_DIGITS: Final = 6


class WebhookError(ValueError):
    """Settings of a webhook that cannot be used. Neither its URL nor its secret is in the message."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver. Of several secrets each signs, so that one can take the other's place."""

    name: str
    url: str = field(repr=False)
    secrets: tuple[bytes, ...] = field(repr=False)
    events: tuple[str, ...]

    @staticmethod
    def of(settings: WebhookSettings, environment: Mapping[str, str] = os.environ) -> "Endpoint":
        """Its secrets read. Raises `WebhookError`."""
        given = environment.get(settings.secret_env, "").split()
        if not given:
            raise WebhookError(
                f"webhook {settings.name!r}: the variable {settings.secret_env} holds no secret "
                f"(one is made by: echo {PREFIX}$(openssl rand -base64 32))"
            )
        secrets = tuple(_secret(text, settings) for text in given)
        return Endpoint(settings.name, settings.url, secrets, settings.events)

    def wants(self, kind: str) -> bool:
        """Whether it is told of events of a kind."""
        return any(matches(pattern, kind) for pattern in self.events)


@dataclass(frozen=True, slots=True)
class Attempted:
    """What came of an attempt; ``error`` is None where it was taken."""

    status: int | None
    error: str | None
    retry_after_s: float = 0.0
    seconds: float = 0.0


def problem_with(webhooks: Sequence[WebhookSettings]) -> str | None:
    """What is wrong with these settings, without a URL: for some receivers it is a secret."""
    for index, each in enumerate(webhooks):
        where = f"webhooks[{index}]"
        if not NAME.fullmatch(each.name) or each.name in [other.name for other in webhooks[:index]]:
            return (
                f"{where}.name = {each.name!r}: must be lower-case letters, digits, - and _, and nobody else's name"
            )
        if not _is_url(each):
            return (
                f"{where}.url: must be a URL that begins with https:// and holds no user; "
                "http:// is taken with allow_http = true"
            )
        for pattern in each.events:
            if not _is_pattern(pattern):
                groups = ", ".join(f"{group}.*" for group in KINDS)
                return f"{where}.events: {pattern!r} is no event; there are *, {groups} and single ones"
    return None


def _is_url(webhook: WebhookSettings) -> bool:
    try:
        parts = urlsplit(webhook.url)
        _ = parts.port
    except ValueError:
        return False
    schemes = ("https", "http") if webhook.allow_http else ("https",)
    return parts.scheme in schemes and bool(parts.hostname) and "@" not in parts.netloc


def _is_pattern(pattern: str) -> bool:
    group, _, rest = pattern.partition(".")
    if group not in KINDS:
        return pattern == "*"
    # anybody may raise an alert, of whatever kind
    return rest == "*" or rest in KINDS[group] or (group == "alert" and bool(rest))


def matches(pattern: str, kind: str) -> bool:
    """``*``, ``group.*`` or the kind itself."""
    return pattern in ("*", kind) or (pattern.endswith(".*") and kind.startswith(pattern[:-1]))


def payload(message: Message) -> bytes:
    """The body: the same bytes at every attempt."""
    at = datetime.fromtimestamp(message.at / 1000, UTC).isoformat(timespec="milliseconds")
    return encode({"type": message.kind, "timestamp": at.replace("+00:00", "Z"), "data": message.data})


def signatures(secrets: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """``webhook-signature``: HMAC-SHA256 of ``id.timestamp.body`` in base64, for each secret."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digests = (hmac.digest(secret, signed, "sha256") for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def open_webhook_client() -> httpx.AsyncClient:
    """Redirects are not followed, and no proxy of the environment is asked: nothing but the URL itself is reached."""
    return httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)


async def post(client: httpx.AsyncClient, endpoint: Endpoint, message: Message) -> Attempted:
    """Send a message once. The answer's body is not read."""
    body, timestamp = payload(message), int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "stillroom",
        "webhook-id": message.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signatures(endpoint.secrets, message.id, timestamp, body),
    }
    began = time.monotonic()
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            client.stream("POST", endpoint.url, content=body, headers=headers) as answer,
        ):
            status, wait = answer.status_code, answer.headers.get("retry-after", "")
    except TimeoutError:
        return Attempted(None, f"no answer within {TIMEOUT_S:.0f} s", seconds=time.monotonic() - began)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        # its text might show the URL, which for some receivers is a secret
        return Attempted(None, _shown(error), seconds=time.monotonic() - began)
    error = None if 200 <= status < 300 else f"answered with status {status}"
    return Attempted(status, error, _seconds(wait), time.monotonic() - began)


def _shown(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"{type(error).__name__}: {cause.reason}"
        if isinstance(cause, OSError) and cause.errno:
            # asyncio puts the address into its own text; a name that is not found has a number below 0
            why = os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
            return f"{type(error).__name__}: {why}"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _seconds(text: str) -> float:
    """Of ``retry-after``; a date is passed over."""
    return float(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_WAIT_DIGITS else 0.0


def _secret(text: str, settings: WebhookSettings) -> bytes:
    why = f"webhook {settings.name!r}: the secret in {settings.secret_env} must be {PREFIX} and then base64 of "
    why += f"{MIN_SECRET} to {MAX_SECRET} bytes"
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise WebhookError(why) from None
    if not text.startswith(PREFIX) or not MIN_SECRET <= len(secret) <= MAX_SECRET:
        raise WebhookError(why)
    return secret
