"""Composition: from settings to the parts of each process. The only place that knows all rooms."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import structlog
import uvicorn
from litestar import Litestar

from dashboards.pages import handlers as pages
from distill.job import JobContext
from distill.worker import owner_name
from gateway.app import GatewayConfig, build_app
from gateway.hygiene import refuse_bad_headers
from ledger.store import Store, open_store
from serving.fleet import Fleet
from stillroom.settings import Settings

__all__ = (
    "build_fleet",
    "build_gateway",
    "configure_logging",
    "job_context",
    "open_ledger",
    "run_gateway",
    "until_signalled",
)


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def open_ledger(settings: Settings) -> Store:
    """The store, its folder made."""
    settings.home_path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return open_store(settings.store_url)


def build_gateway(settings: Settings, store: Store) -> Litestar:
    """The gateway's application with the ops pages."""
    config = GatewayConfig(
        gateway=settings.gateway,
        auth=settings.auth,
        teacher=settings.teacher,
        student=settings.student,
        router=settings.router,
        aliases=settings.aliases,
        spool=settings.home_path / "spool",
    )
    return build_app(config, store, pages)


def run_gateway(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: then stop accepting, let streams finish, flush the spool."""
    store = open_ledger(settings)
    app = build_gateway(settings, store)
    config = uvicorn.Config(
        refuse_bad_headers(app, settings.gateway.max_header_bytes),  # pyright: ignore[reportArgumentType]
        host=settings.gateway.host,
        port=settings.gateway.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=int(settings.gateway.drain_seconds),
    )
    # uvicorn drains, then raises the signal again: taken here, so that an orderly end has status 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    uvicorn.Server(config).run()
    store.close()


def build_fleet(settings: Settings, store: Store, on_change: Callable[[str, str], None]) -> Fleet:
    """The keeper of this machine's students."""
    return Fleet(store, settings.student, settings.home_path / "logs", on_change)


def job_context(settings: Settings, store: Store, on_progress: Callable[[str, dict[str, Any]], None]) -> JobContext:
    """What a worker in this process brings to a job."""
    return JobContext(
        store=store,
        home=settings.home_path,
        distill=settings.distill,
        student=settings.student,
        router=settings.router,
        teacher_price=settings.teacher.price,
        owner=owner_name(),
        on_progress=on_progress,
    )


def until_signalled() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. Call it in the running loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
