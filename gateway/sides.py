"""From the settings to the two sides that the relay asks."""

import os

import httpx

from gateway.attempts import Attempts, Patience
from gateway.metrics import Metrics
from gateway.settings import GatewaySettings, TeacherSettings
from gateway.upstream import Upstream
from serving.settings import StudentSettings

__all__ = ("student_side", "teacher_side")


def teacher_side(
    settings: TeacherSettings, gateway: GatewaySettings, client: httpx.AsyncClient, metrics: Metrics
) -> Attempts:
    """The teacher and those behind it, in order."""
    timeout = httpx.Timeout(settings.timeout_seconds, connect=settings.connect_timeout_seconds)
    upstreams = [
        Upstream(
            name="teacher",
            base_url=each.base_url.rstrip("/"),
            model=each.model,
            api_key=os.environ.get(each.api_key_env),
            timeout=timeout,
            first_byte_s=settings.first_byte_timeout_seconds,
            price=each.price,
        )
        for each in (settings, *settings.fallbacks)
    ]
    patience = Patience(
        settings.retries,
        gateway.max_retry_after_seconds,
        settings.total_timeout_seconds,
        gateway.total_timeout_seconds,
        settings.hedge_after_seconds,
    )
    return Attempts(upstreams, patience, client, metrics)


def student_side(
    settings: StudentSettings, gateway: GatewaySettings, client: httpx.AsyncClient, metrics: Metrics
) -> Attempts:
    """The students, as `student.balance` says; where they are, `Attempts.serve_at` is told."""
    timeout = httpx.Timeout(settings.timeout_seconds, connect=settings.connect_timeout_seconds)
    key = os.environ.get(settings.api_key_env)
    nowhere = Upstream("student", "", settings.model, key, timeout, settings.first_byte_timeout_seconds)
    patience = Patience(
        settings.retries,
        gateway.max_retry_after_seconds,
        settings.total_timeout_seconds,
        gateway.total_timeout_seconds,
    )
    return Attempts([nowhere], patience, client, metrics, settings.balance)
