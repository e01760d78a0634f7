"""Composition of the gateway: from settings to its process, with the ops pages and what they ask other rooms for."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog
from litestar import Litestar

from dashboards.pages import pages
from gateway.app import build_app, reconfigure
from gateway.errors import exception_handlers
from gateway.parts import GatewayConfig
from gateway.server import Server, ignore_signals, listen, make_server, settle_process
from gateway.webhook_endpoints import WebhookError
from ledger.store import Store
from stillroom.distilling import distilling
from stillroom.parts import open_ledger
from stillroom.settings import Settings, SettingsError, changed_settings

__all__ = (
    "Reloading",
    "build_gateway",
    "gateway_config",
    "run_gateway",
)

AT_START: Final = (
    "auth.",
    "distill.",
    "gateway.host",
    "gateway.max_body_bytes",
    "gateway.max_header_bytes",
    "gateway.port",
    "gateway.redis_url",
    "gateway.tracing",
    "gateway.workers",
    "home",
    "store.",
    "student.address",
    "student.data_parallel",
    "student.device",
    "student.engine_args",
    "student.executor",
    "student.max_lora_rank",
    "student.pipeline_parallel",
    "student.replicas",
    "student.swap",
    "student.tensor_parallel",
    "student.weights",
    "webhooks",
)
"""What is read at the start of a process only. A gateway that asks for keys never ceases to while it listens."""

log = structlog.get_logger(__name__)


def gateway_config(settings: Settings, siblings: Path | None = None) -> GatewayConfig:
    """The gateway's part of the settings. ``siblings`` is the folder that its workers meet in, if there are any."""
    return GatewayConfig(
        gateway=settings.gateway,
        auth=settings.auth,
        teacher=settings.teacher,
        student=settings.student,
        router=settings.router,
        aliases=settings.aliases,
        spool=settings.home_path / "spool",
        embeddings=settings.embeddings,
        trial=settings.distill.canary.trial,
        siblings=siblings,
        distilling=distilling(settings),
        webhooks=settings.webhooks,
    )


def build_gateway(settings: Settings, store: Store, siblings: Path | None = None) -> Litestar:
    """The gateway's application with the ops pages. Raises `SettingsError` for a webhook without its secret."""
    try:
        return build_app(gateway_config(settings, siblings), store, [pages(exception_handlers)])
    except WebhookError as error:
        raise SettingsError(str(error)) from error


def run_gateway(settings: Settings, read_again: Callable[[], Settings], siblings: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT: then stop accepting, let streams finish, flush the spool.

    SIGHUP has the settings read again. One of several workers shares the port with its ``siblings``. Raises
    ``OSError`` where the address cannot be listened on.
    """
    # until there is a loop to take it, one that comes early must not end the process
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    store = open_ledger(settings)
    app = build_gateway(settings, store, siblings)
    server = make_server(app, settings.gateway)
    listener = listen(settings.gateway.host, settings.gateway.port, shared=siblings is not None)
    settle_process()

    async def serve() -> None:
        reloading = Reloading(app, server, settings, read_again)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloading.run)
        await server.serve([listener])

    ignore_signals()
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(serve())
    store.close()


@dataclass
class Reloading:
    """Takes the settings in again while the gateway serves; a bad file changes nothing."""

    app: Litestar
    server: Server
    started: Settings
    read_again: Callable[[], Settings]
    _current: Settings | None = None

    def run(self) -> None:
        """Read them, and serve new requests by them. Logs one line: what changed, or what is wrong."""
        try:
            new = self.read_again()
        except SettingsError as error:
            log.error("settings_refused", error=str(error))
            return
        late = [key for key in changed_settings(self.started, new) if key.startswith(AT_START)]
        changed = [key for key in changed_settings(self._current or self.started, new) if key not in late]
        kept = msgspec.structs.replace(new, auth=self.started.auth)
        reconfigure(self.app, gateway_config(kept))
        self.server.configure(new.gateway)
        self._current = new
        log.info("settings_reloaded", changed=changed, need_a_restart=late)
