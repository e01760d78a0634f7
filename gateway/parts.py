"""From the settings to what serves requests: made at the start, and again when the settings are read again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gateway.admission import Admission
from gateway.call import Pricing
from gateway.embeddings_api import Embeddings
from gateway.explore import Explorer, Sides
from gateway.live import Live
from gateway.metrics import Metrics
from gateway.pacing import Pacing
from gateway.recorder import Recorder
from gateway.relay import Relay
from gateway.settings import AuthSettings, EmbeddingsSettings, GatewaySettings, TeacherSettings, WebhookSettings
from gateway.sides import student_side, teacher_side
from ledger.canaries import Trial
from ledger.distilling import Distilling
from router.policy import Capabilities
from router.settings import RouterSettings
from serving.settings import StudentSettings

__all__ = ("GatewayConfig", "Lasting", "serving_state")


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
    embeddings: EmbeddingsSettings = field(default_factory=EmbeddingsSettings)
    trial: Trial | None = None
    """How a release that a person approves is tried; None where it goes live at once."""
    siblings: Path | None = None
    """Folder that the workers of a gateway meet in; None where there is one process."""
    distilling: Distilling = field(default_factory=Distilling)
    """What is said of jobs and releases to come."""
    webhooks: tuple[WebhookSettings, ...] = ()
    """Who is told of events."""


@dataclass(frozen=True, slots=True)
class Lasting:
    """What stays while the process runs, whatever the settings say."""

    client: httpx.AsyncClient
    live: Live
    recorder: Recorder
    metrics: Metrics
    admission: Admission
    pacing: Pacing


def serving_state(lasting: Lasting, config: GatewayConfig) -> dict[str, Any]:
    """What new requests are served with; those in flight keep what they began with."""
    lasting.admission.settings = config.gateway
    lasting.live.elsewhere.configure(config.student)
    pacer = lasting.pacing.pacer
    pacer.max_share = config.router.max_teacher_share
    pacer.max_spend_per_day = config.router.max_teacher_spend_per_day
    return {
        "relay": _relay(lasting, config),
        "embeddings": Embeddings.of(config.embeddings, lasting.client, lasting.recorder, lasting.metrics),
        "aliases": dict(config.aliases),
        "log_content": config.gateway.log_content,
        "auth_required": config.auth.required,
        "trial": config.trial,
        "distilling": config.distilling,
        "router_settings": config.router,
    }


def _relay(lasting: Lasting, config: GatewayConfig) -> Relay:
    student, gateway = config.student, config.gateway
    client, metrics = lasting.client, lasting.metrics
    teacher = teacher_side(config.teacher, gateway, client, metrics)
    pricing = Pricing(student.price, config.teacher.price)
    top = config.teacher.top_logprobs
    asked = student_side(student, gateway, client, metrics)
    # its breakers and retries are not shown: those in the metrics are the champion's
    tried = student_side(student, gateway, client, Metrics())
    sides = Sides(teacher, asked, tried, lasting.live, top)
    capabilities = Capabilities(student.context_tokens, student.tools, student.images)
    return Relay(
        live=lasting.live,
        teacher=teacher,
        student=asked,
        tried=tried,
        student_when_teacher_down=gateway.student_when_teacher_down,
        capabilities=capabilities,
        pricing=pricing,
        hold_tokens=config.router.hold_tokens,
        router_enabled=config.router.enabled,
        harvest_top_logprobs=top,
        recorder=lasting.recorder,
        metrics=metrics,
        explorer=Explorer(sides, pricing, lasting.recorder, config.router, capabilities),
        pacing=lasting.pacing,
    )
