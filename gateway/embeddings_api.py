"""``/v1/embeddings``: passed on to the server that is configured for them, as they came and as they come back."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx
import structlog
from litestar import Request, post
from litestar.types import ASGIApp

from gateway.answer import Answer
from gateway.attempts import Attempts, Patience
from gateway.auth import opt
from gateway.call import Call, Caller, Endpoint, Pricing, begin_call, decode_body
from gateway.error_codes import Code
from gateway.errors import ApiError, BadRequest, NotFound, UpstreamError, refusal_body, unavailable
from gateway.metrics import Metrics
from gateway.openai_api import answer_call
from gateway.recorder import Recorder
from gateway.replies import PlainReply, StreamReply
from gateway.settings import EmbeddingsSettings
from gateway.upstream import Upstream
from gateway.wire import NotJson, as_written, decode_object
from router.policy import Decision

__all__ = ("Embeddings", "embeddings")

EMBEDDINGS: Final = Endpoint("embeddings", "/embeddings")
# no student has them, and the teacher's price is not theirs
ROUTED: Final = Decision("teacher", "unsupported", None, 1.0)

PATIENCE: Final = Patience(retries=2, max_retry_after_s=2.0, total_s=120.0, request_s=600.0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The server of the embeddings, in the place that a `Relay` has for chats."""

    side: Attempts
    models: frozenset[str]
    pricing: Pricing
    recorder: Recorder
    metrics: Metrics

    @staticmethod
    def of(
        settings: EmbeddingsSettings, client: httpx.AsyncClient, recorder: Recorder, metrics: Metrics
    ) -> "Embeddings | None":
        """As the settings say; None where they name no server."""
        if settings.base_url is None:
            return None
        server = Upstream(
            "embeddings",
            settings.base_url.rstrip("/"),
            settings.model,
            os.environ.get(settings.api_key_env),
            httpx.Timeout(settings.timeout_seconds, connect=settings.connect_timeout_seconds),
        )
        pricing = Pricing(settings.price, settings.price)
        side = Attempts([server], PATIENCE, client, metrics)
        return Embeddings(side, frozenset({settings.model, *settings.models}), pricing, recorder, metrics)

    def read(self, raw: bytes, headers: Mapping[str, str], caller: Caller) -> Call:
        """Read a request. Raises `BadRequest` or `NotFound`."""
        model = decode_body(raw).get("model")
        if not isinstance(model, str):
            raise BadRequest("you must provide a model parameter", param="model")
        if model not in self.models:
            raise no_such_model(model)
        call = begin_call(EMBEDDINGS, {"model": model}, [], headers, replace(caller, aliases={model: "teacher"}))
        call.written = as_written(raw)
        call.decision, call.keep_content, call.trainable = ROUTED, False, False
        return call

    async def answer(self, call: Call) -> PlainReply:
        """The server's answer to the byte. Raises `ApiError`, recorded."""
        body, answer = call.written or {}, Answer()
        try:
            reply = await self.side.post(call, lambda _: body)
            if reply.status < 400:
                answer.read(decode_object(reply.body))
        except (UpstreamError, NotJson) as error:
            raise self._failed(call, error) from error
        refused = reply.status >= 400
        self._record(call, answer, reply.status, "upstream_refused" if refused else None)
        shown = refusal_body(reply.body) if refused else reply.body
        return PlainReply(reply.status, reply.headers | call.headers(), shown)

    async def open_stream(self, call: Call) -> StreamReply | PlainReply:
        """Embeddings are not streamed."""
        return await self.answer(call)

    def abandoned(self, call: Call, status: int, code: Code) -> None:
        """Record a request that ended before it was answered."""
        self._record(call, Answer(), status, code)

    def _failed(self, call: Call, error: UpstreamError | NotJson) -> ApiError:
        if isinstance(error, NotJson):
            error = UpstreamError("embeddings", "answered with something that is not a JSON object")
        self.metrics.upstream_errors.labels("embeddings").inc()
        log.warning("upstream_failed", upstream="embeddings", why=str(error))
        refusal = unavailable(f"There are no embeddings now: {error}.", error)
        self._record(call, Answer(), refusal.status, refusal.code)
        refusal.headers |= call.headers()
        return refusal

    def _record(self, call: Call, answer: Answer, status: int, code: Code | None) -> None:
        record = call.record(answer, self.pricing, status, code)
        if call.trace is not None:
            call.trace.end(record)
        self.recorder.record(record)


def no_such_model(model: str) -> NotFound:
    """OpenAI's answer to a model that is not there."""
    message = f"The model `{model[:200]}` does not exist, or is not one that gives embeddings."
    return NotFound(message, code="model_not_found", param="model")


@post("/v1/embeddings", opt=opt("inference", short_way=True), status_code=200)
async def embeddings(request: Request[Any, Any, Any]) -> ASGIApp:
    """OpenAI's embeddings."""
    server: Embeddings | None = request.app.state.embeddings
    if server is None:
        message = "Embeddings are not configured: this gateway's settings name no embeddings.base_url."
        raise NotFound(message, code="model_not_found", param="model")
    return await answer_call(request, server.read, instead=server)
