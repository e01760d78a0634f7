"""Puts the gateway together: handlers, state, background tasks, start and orderly end."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from litestar import Litestar, Request, Response, Router, get
from litestar.datastructures import State

from gateway import admin_api, canary_api, openai_api, requests_api, router_figures, serving_api, sessions
from gateway.admission import Admission
from gateway.auth import PUBLIC, authorise, opt
from gateway.batches.api import handlers as batch_handlers
from gateway.batches.files_api import handlers as file_handlers
from gateway.batches.folder import Folder
from gateway.batches.room import Room
from gateway.batches.runner import BatchRunner
from gateway.budgets import Budgets
from gateway.completions_api import completions
from gateway.elsewhere import Elsewhere
from gateway.embeddings_api import embeddings
from gateway.errors import Unavailable, exception_handlers
from gateway.feedback_api import create_feedback
from gateway.idempotency import Idempotency
from gateway.ledger_metrics import LedgerMetrics
from gateway.live import Live
from gateway.messages.api import handlers as message_handlers
from gateway.metrics import Metrics
from gateway.openapi import openapi_document
from gateway.pacing import Pacing
from gateway.parts import GatewayConfig, Lasting, serving_state
from gateway.recorder import Recorder
from gateway.responses.api import handlers as response_handlers
from gateway.responses.keep import ResponseKeeper
from gateway.settings import TracingSettings
from gateway.shared_limits import SharedLimits
from gateway.siblings import Siblings
from gateway.upstream import open_client
from gateway.webhook_endpoints import Endpoint
from gateway.webhooks import WebhookSender
from ledger.ingest import Ingester
from ledger.spending import SpendReader
from ledger.spool import SpoolWriter
from ledger.store import Store

if TYPE_CHECKING:
    from gateway.tracing import Tracing

__all__ = ("GatewayConfig", "build_app", "reconfigure")

TEXT_FORMAT: Final = "text/plain; version=0.0.4"
"""Litestar adds the charset."""


@get("/healthz", opt=opt(PUBLIC))
async def healthz() -> Response[dict[str, str]]:
    """200 while the process runs."""
    return Response({"status": "ok"}, media_type="application/json")


@get("/readyz", opt=opt(PUBLIC))
async def readyz(request: Request[Any, Any, Any]) -> Response[dict[str, str]]:
    """200 while the gateway takes requests: the keys were read, and it is not draining."""
    state = request.app.state
    if state.draining:
        raise Unavailable("the gateway is draining")
    if not state.live.loaded:
        raise Unavailable("the ledger was not reached yet")
    return Response({"status": "ready"}, media_type="application/json")


@get("/metrics", opt=opt(PUBLIC))
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Prometheus metrics. They hold no request content and no key."""
    siblings: Siblings | None = request.app.state.siblings
    text = await siblings.render() if siblings else _own_metrics(request.app.state)
    return Response(text, media_type=TEXT_FORMAT)


def _own_metrics(state: State) -> bytes:
    snapshot = state.live.snapshot
    state.metrics.release.info({"id": snapshot.release.id if snapshot.release else "none"})
    state.metrics.show_trial(snapshot.trial)
    return state.metrics.render()


class _Part(Protocol):
    """Background work of the gateway, until it is cancelled."""

    def run(self) -> Coroutine[Any, Any, None]: ...


def build_app(config: GatewayConfig, store: Store, more_handlers: Sequence[Any] = ()) -> Litestar:
    """The application. ``more_handlers`` are the pages of other rooms; they too must declare a scope.

    Raises `WebhookError` and ``ValueError`` for settings whose variables are unset or hold what they must not.
    """
    metrics_ = Metrics()
    spool = SpoolWriter(config.spool)
    shared = SharedLimits(config.gateway.redis_url, metrics_.shared_missed) if config.gateway.redis_url else None
    budgets = Budgets(SpendReader(store), shared)
    admission = Admission(config.gateway, budgets, shared=shared)
    metrics_.shared_reachable.set_function(lambda: float(shared is None or shared.reachable))
    metrics_.in_flight.set_function(lambda: admission.in_flight)
    recorder = Recorder(spool, Ingester(config.spool, store), metrics_, admission.settle)
    live = Live(store, Elsewhere(config.student), budgets, config.spool.parent / "cache" / "releases")
    pacing = Pacing(store, lambda: recorder.recorded)
    metrics_.show(pacing.pacer)
    ledger_metrics = LedgerMetrics(store, live, budgets, metrics_.registry)
    lasting = Lasting(open_client(), live, recorder, metrics_, admission, pacing)
    state = State(
        {
            "store": store,
            "live": live,
            "release_cache": config.spool.parent / "cache" / "releases",
            "lasting": lasting,
            "explorers": [],
            "metrics": metrics_,
            "admission": admission,
            "idempotency": Idempotency(),
            "responses": ResponseKeeper(store, metrics_),
            "files": Folder(config.spool.parent / "files"),
            "sessions": sessions.Sessions.of(config.spool.parent),
            "read_request": requests_api.read_request,
            "read_router": router_figures.read_router,
            "read_drift": router_figures.read_drift,
            "read_serving": serving_api.ServingReader().read,
            "draining": False,
            "tracing": _tracing(config.gateway.tracing),
            "max_body_bytes": config.gateway.max_body_bytes,
            **serving_state(lasting, config),
        }
    )
    state.siblings = Siblings(config.siblings, partial(_own_metrics, state)) if config.siblings else None

    parts: list[_Part] = [live, live.elsewhere, recorder, state.responses, pacing, ledger_metrics]
    if shared is not None:
        parts.append(shared)
    if config.webhooks:
        parts.append(WebhookSender(store, [Endpoint.of(each) for each in config.webhooks]))
    return Litestar(
        [*_handlers(config), *more_handlers],
        guards=[authorise],
        state=state,
        lifespan=[partial(_lifespan, parts)],
        exception_handlers=exception_handlers,
        request_max_body_size=config.gateway.max_body_bytes,
        openapi_config=None,
        logging_config=None,
    )


def _handlers(config: GatewayConfig) -> list[Any]:
    v1 = [openai_api.chat_completions, openai_api.models, openai_api.model, create_feedback, openapi_document]
    v1 += [completions, embeddings, *response_handlers, *message_handlers, *batch_handlers]
    # with a bound of their own
    files = Router("/", route_handlers=file_handlers, request_max_body_size=config.gateway.batches.max_file_bytes)
    admin = [*admin_api.handlers, *canary_api.handlers, *sessions.handlers]
    return [healthz, readyz, metrics, *v1, files, *admin]


@contextlib.asynccontextmanager
async def _lifespan(parts: Sequence[_Part], app: Litestar) -> AsyncGenerator[None, None]:
    state = app.state
    lasting: Lasting = state.lasting
    await lasting.live.elsewhere.look()
    await lasting.live.refresh()
    batches = BatchRunner(app, state.store, state.files, Room(lasting.admission))
    tasks = [asyncio.create_task(part.run()) for part in (*parts, batches)]
    try:
        async with state.siblings.serving() if state.siblings else contextlib.nullcontext():
            yield
    finally:
        state.draining = True
        await batches.finish()
        for explorer in (*state.explorers, state.relay.explorer):
            await explorer.finish()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await state.responses.finish()
        await lasting.recorder.finish()
        await lasting.client.aclose()
        if state.tracing is not None:
            await asyncio.to_thread(state.tracing.close)


def _tracing(settings: TracingSettings) -> "Tracing | None":
    if settings.endpoint is None:
        return None
    from gateway.tracing import Tracing  # noqa: PLC0415 an optional package, and free where it is not asked for

    return Tracing(settings)


def reconfigure(app: Litestar, config: GatewayConfig) -> None:
    """Serve new requests by these settings. Requests in flight end as they began.

    The spool's folder and the bounds of a body stay what they were.
    """
    state = app.state
    state.explorers.append(state.relay.explorer)
    state.update(serving_state(state.lasting, config))
