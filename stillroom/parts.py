"""Composition of all but the gateway: from settings to the ledger, the fleet, and what a worker brings to a job.

The gateway's is in `compose`, apart: it costs a second to load, which no other process and hardly a command needs.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from ledger.store import Store, open_store
from stillroom.output import unfailing
from stillroom.settings import Settings, SettingsError

if TYPE_CHECKING:
    from distill.job import JobContext
    from distill.upstreams import Upstream
    from serving.fleet import Fleet

__all__ = ("build_fleet", "check_students", "configure_logging", "job_context", "open_ledger", "until_signalled")


def configure_logging() -> None:
    """One JSON line per event on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(unfailing(sys.stderr)),
        cache_logger_on_first_use=True,
    )


def open_ledger(settings: Settings) -> Store:
    """The store, its folder made."""
    settings.home_path.mkdir(parents=True, exist_ok=True, mode=0o700)
    redis_url = settings.gateway.redis_url
    if redis_url is None:
        return open_store(settings.store_url)
    from stillroom.announcing import announcer

    return open_store(settings.store_url, announcer(redis_url))


def check_students(settings: Settings) -> None:
    """Raises `SettingsError` where this machine is to keep students and they could not listen as it is set."""
    from serving.address import AddressError
    from serving.students import check_address

    if settings.student.base_url is None:
        try:
            check_address(settings.student)
        except AddressError as error:
            raise SettingsError(str(error)) from error


def build_fleet(settings: Settings, store: Store, on_change: Callable[[str, str], None]) -> "Fleet":
    """The keeper of this machine's students. Raises `SettingsError` where they cannot listen as it is set."""
    from serving.fleet import Fleet

    check_students(settings)
    return Fleet(store, settings.student, settings.home_path / "logs", on_change)


def job_context(settings: Settings, store: Store, on_progress: Callable[[str, dict[str, Any]], None]) -> "JobContext":
    """What a worker in this process brings to a job."""
    from distill.job import JobContext
    from distill.upstreams import Upstream
    from distill.worker import owner_name

    teacher = settings.teacher
    return JobContext(
        store=store,
        home=settings.home_path,
        distill=settings.distill,
        student=settings.student,
        router=settings.router,
        teacher_price=settings.teacher.price,
        owner=owner_name(),
        on_progress=on_progress,
        teacher=Upstream(teacher.base_url, teacher.model, teacher.api_key_env, teacher.price),
        embeddings=_embeddings(settings),
        terms_allow_training=teacher.terms_allow_training,
    )


def _embeddings(settings: Settings) -> "Upstream | None":
    from distill.upstreams import Upstream

    embeddings = settings.embeddings
    if embeddings.base_url is None:
        return None
    return Upstream(embeddings.base_url, embeddings.model, embeddings.api_key_env, embeddings.price)


def until_signalled() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. Call it in the running loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
