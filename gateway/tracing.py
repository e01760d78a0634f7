"""OpenTelemetry traces by the GenAI semantic conventions: one span per request, one below it per upstream attempt.

Imported only where `gateway.tracing.endpoint` is set, since OpenTelemetry is the optional extra ``otel``. Spans wait
in a bounded queue and are sent in the background; a receiver that is away costs spans, and no request. A client's W3C
context is the parent, and what an upstream gets is the context of its own span.
"""

import importlib.metadata
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.call import Call
from gateway.errors import UpstreamError
from gateway.settings import TracingSettings
from gateway.span_attributes import of_attempt, of_content, of_reply, of_request, of_result, provider
from gateway.upstream import Stream, Upstream, UpstreamReply
from ledger.records import RequestRecord

__all__ = ("Attempt", "Trace", "Tracing")

PATH: Final = "/v1/traces"
EXPORT_S: Final = 10.0
"""For one batch, its retries included."""
QUEUE: Final = 2_048
"""Spans that wait at most; of more the oldest are dropped."""
BATCH: Final = 256
DELAY_MS: Final = 1_000.0
CLOSE_S: Final = 3.0
"""How long the end of the process waits for the last spans."""
SAY_S: Final = 60.0
CONTEXT: Final = ("traceparent", "tracestate")
NS_PER_MS: Final = 1_000_000

log = structlog.get_logger(__name__)
_w3c: Final = TraceContextTextMapPropagator()


class _Said(logging.Handler):
    """OpenTelemetry's own warnings, as lines of our log: the first of a minute."""

    _next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Say it. What its parser says of headers is left out: it shows them."""
        now = time.monotonic()
        if now >= self._next and record.name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            self._next = now + SAY_S
            log.warning("tracing_failed", error=record.getMessage().partition("\n")[0])


_said: Final = _Said(logging.WARNING)


class Tracing:
    """The exporter of this process, and the beginning of each request's trace."""

    def __init__(self, settings: TracingSettings) -> None:
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(_said)
        logger.propagate = False
        self._exporter = OTLPSpanExporter(
            endpoint=(settings.endpoint or "").rstrip("/") + PATH,
            headers=_headers(settings.headers_env),
            timeout=EXPORT_S,
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=Resource.create({SERVICE_NAME: settings.service_name, SERVICE_VERSION: _version()}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter, QUEUE, DELAY_MS, BATCH))
        self._tracer = self._provider.get_tracer("stillroom", _version())
        self._content = settings.content

    def begin(self, call: Call) -> "Trace":
        """The trace of a request that was admitted; it goes on its client's, where there is one."""
        attributes = of_request(call)
        span = self._tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {attributes['gen_ai.request.model']}",
            context=_w3c.extract(call.forwarded, Context()),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=call.created_at * NS_PER_MS,
        )
        return Trace(self._tracer, span, self._content)

    def close(self) -> None:
        """Send what is left, for `CLOSE_S` at most. Blocks."""
        # a daemon: the export of a batch to a receiver that hangs is not waited for
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_S)
        if ending.is_alive():
            self._exporter.shutdown()


class Trace:
    """One request's span. `Call` carries it."""

    __slots__ = ("_content", "_is_over", "_span", "_tracer")

    def __init__(self, tracer: Tracer, span: Span, content: bool) -> None:
        self._tracer, self._span, self._content = tracer, span, content
        self._is_over = False

    def attempt(self, call: Call, upstream: Upstream) -> "Attempt":
        """An upstream is asked, for this request or beside it."""
        attributes = of_attempt(call, upstream)
        span = self._tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {upstream.model}",
            context=set_span_in_context(self._span, Context()),
            kind=SpanKind.CLIENT,
            attributes=attributes,
        )
        return Attempt(span, call.forwarded)

    def answered(self, upstream: Upstream, reply: UpstreamReply | Stream) -> None:
        """This reply may be the one that is shown; the last one is."""
        if self._span.is_recording():
            self._span.set_attributes({"gen_ai.provider.name": provider(upstream), **of_reply(reply)})

    def end(self, record: RequestRecord) -> None:
        """The request is over, and recorded."""
        if self._is_over:
            return
        self._is_over = True
        if self._span.is_recording():
            self._span.set_attributes(of_result(record))
            if self._content and record.content is not None:
                self._span.set_attributes(of_content(record.content, record.finish_reason))
            if record.status >= 500:
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Attempt:
    """The span of one call of an upstream, from its beginning to the last byte."""

    __slots__ = ("_span", "headers")

    def __init__(self, span: Span, forwarded: Mapping[str, str]) -> None:
        self._span = span
        self.headers = {name: value for name, value in forwarded.items() if name not in CONTEXT}
        """The client's that are passed on, with this span's context."""
        _w3c.inject(self.headers, set_span_in_context(span, Context()))

    def came(self, outcome: UpstreamReply | Stream | UpstreamError | None) -> None:
        """What came of it; None where it was cancelled. The span of a stream ends with the stream."""
        if isinstance(outcome, UpstreamError):
            self._failed(outcome.fault)
        elif outcome is None:
            self._span.set_attribute("error.type", "cancelled")
        elif self._span.is_recording():
            self._span.set_attributes(of_reply(outcome))
            if isinstance(outcome, UpstreamReply):
                self._span.set_attribute("http.response.status_code", outcome.status)
                if outcome.status >= 400:
                    self._failed(str(outcome.status))
        if isinstance(outcome, Stream):
            outcome.attempt = self
        else:
            self._span.end()

    def over(self, broken: bool) -> None:
        """The stream was closed."""
        if broken:
            self._failed("broken")
        self._span.end()

    def _failed(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))


def _version() -> str:
    return importlib.metadata.version("stillroom")


def _headers(variable: str) -> dict[str, str]:
    """``name=value,other=value`` with percent-encoded values, as OTEL_EXPORTER_OTLP_HEADERS has them.

    Raises ``ValueError``, which names the variable and shows nothing of it.
    """
    found: dict[str, str] = {}
    for part in filter(None, os.environ.get(variable, "").split(",")):
        name, sign, value = part.partition("=")
        if not sign or not name.strip():
            raise ValueError(f"the variable {variable} must hold name=value, with a comma between two")
        found[name.strip().lower()] = unquote(value.strip())
    return found
