"""An OTLP/HTTP receiver: a real HTTP server that reads the protobuf of the traces that are posted to it."""

from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.http_receiver import Receiver

__all__ = ("OtlpReceiver", "Seen")


@dataclass(frozen=True)
class Seen:
    """A span as it arrived; ids in hexadecimal, as in ``traceparent``."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    status: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    seconds: float

    @property
    def context(self) -> str:
        """How ``traceparent`` begins below this span; flags follow."""
        return f"00-{self.trace_id}-{self.span_id}-"


class OtlpReceiver(Receiver):
    """`spans` are all that came."""

    @property
    def spans(self) -> list[Seen]:
        found: list[Seen] = []
        for posted in list(self.posted):
            assert (posted.path, posted.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            request = ExportTraceServiceRequest.FromString(posted.body)
            for of_resource in request.resource_spans:
                resource = _attributes(of_resource.resource.attributes)
                found += [_seen(span, resource) for scope in of_resource.scope_spans for span in scope.spans]
        return found

    def of(self, request_id: str) -> tuple[list[Seen], list[Seen]]:
        """The spans of a request, and those of its attempts by their beginning."""
        mine = [span for span in self.spans if span.attributes.get("stillroom.request_id") == request_id]
        return [s for s in mine if s.kind == "SERVER"], [s for s in mine if s.kind == "CLIENT"]


def _seen(span: Span, resource: dict[str, Any]) -> Seen:
    return Seen(
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        type(span.status).StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        _attributes(span.attributes),
        resource,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
