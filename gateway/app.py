"""Puts the gateway together: handlers, state, background tasks, start and orderly end."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State

from gateway import admin_api, openai_api
from gateway.auth import PUBLIC, authorise, opt
from gateway.call import Pricing
from gateway.errors import Unavailable, exception_handlers
from gateway.explore import Explorer
from gateway.limits import RequestLimit
from gateway.live import Live
from gateway.metrics import Metrics
from gateway.recorder import Recorder
from gateway.relay import Relay
from gateway.settings import AuthSettings, GatewaySettings, TeacherSettings
from gateway.upstream import Upstream, open_client
from ledger.ingest import Ingester
from ledger.spool import SpoolWriter
from ledger.store import Store
from router.policy import Capabilities
from router.settings import RouterSettings
from serving.settings import StudentSettings

__all__ = ("GatewayConfig", "build_app")


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The settings that the gateway reads, and where the spool lies."""

    gateway: GatewaySettings
    auth: AuthSettings
    teacher: TeacherSettings
    student: StudentSettings
    router: RouterSettings
    aliases: Mapping[str, str]
    spool: Path


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
    state = request.app.state
    release = state.live.snapshot.release
    state.metrics.release.info({"id": release.id if release else "none"})
    return Response(state.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def build_app(config: GatewayConfig, store: Store, more_handlers: Sequence[Any] = ()) -> Litestar:
    """The application. ``more_handlers`` are the pages of other rooms; they too must declare a scope."""
    metrics_ = Metrics()
    spool = SpoolWriter(config.spool)
    recorder = Recorder(spool, Ingester(config.spool, store), metrics_)
    live = Live(store, config.student.base_url)
    client = open_client()
    relay = _relay(config, client, live, recorder, metrics_)
    state = State(
        {
            "store": store,
            "live": live,
            "relay": relay,
            "metrics": metrics_,
            "request_limit": RequestLimit(config.gateway.requests_per_minute),
            "aliases": dict(config.aliases),
            "log_content": config.gateway.log_content,
            "auth_required": config.auth.required,
            "draining": False,
        }
    )

    @contextlib.asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncGenerator[None, None]:
        await live.refresh()
        tasks = [asyncio.create_task(live.run()), asyncio.create_task(recorder.run())]
        try:
            yield
        finally:
            state.draining = True
            await relay.explorer.finish()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await recorder.finish()
            await client.aclose()

    v1 = [openai_api.chat_completions, openai_api.models, openai_api.model]
    return Litestar(
        [healthz, readyz, metrics, *v1, *admin_api.handlers, *more_handlers],
        guards=[authorise],
        state=state,
        lifespan=[lifespan],
        exception_handlers=exception_handlers,
        request_max_body_size=config.gateway.max_body_bytes,
        openapi_config=None,
        logging_config=None,
    )


def _relay(
    config: GatewayConfig, client: httpx.AsyncClient, live: Live, recorder: Recorder, metrics_: Metrics
) -> Relay:
    teacher_settings, student_settings = config.teacher, config.student
    teacher = Upstream(
        "teacher",
        teacher_settings.base_url.rstrip("/"),
        teacher_settings.model,
        os.environ.get(teacher_settings.api_key_env),
        httpx.Timeout(teacher_settings.timeout_seconds, connect=teacher_settings.connect_timeout_seconds),
    )
    student = Upstream(
        "student",
        "",
        student_settings.model,
        None,
        httpx.Timeout(student_settings.timeout_seconds, connect=student_settings.connect_timeout_seconds),
    )
    pricing = Pricing(student_settings.price, teacher_settings.price)
    explorer = Explorer(
        client, teacher, pricing, recorder, config.router.explore_share, teacher_settings.top_logprobs
    )
    return Relay(
        client=client,
        live=live,
        teacher=teacher,
        student=student,
        capabilities=Capabilities(student_settings.context_tokens, student_settings.tools, student_settings.images),
        pricing=pricing,
        hold_tokens=config.router.hold_tokens,
        router_enabled=config.router.enabled,
        harvest_top_logprobs=teacher_settings.top_logprobs,
        recorder=recorder,
        metrics=metrics_,
        explorer=explorer,
    )
