"""One chat request on its way through the gateway: what came in, what was decided, what is recorded of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.answer import Answer, Asked
from gateway.errors import BadRequest, NotFound
from gateway.wire import NotJson, decode_object
from ledger.prices import Price, Tokens, cost_nano
from ledger.records import Content, RequestRecord
from ledger.store import now_ms
from router.features import RequestView
from router.policy import Decision

__all__ = ("MODELS", "Call", "Caller", "Pricing", "read_call")

MODELS: Final = ("auto", "student", "teacher")
FORWARDED_HEADERS: Final = ("traceparent", "tracestate", "openai-organization", "openai-project")
MAX_SHOWN: Final = 200
NOT_PARAMETERS: Final = ("messages", "model", "stream", "stream_options", "logprobs", "top_logprobs")
UNDECIDED: Final = Decision("teacher", "no_release", None, 1.0)


@dataclass(frozen=True, slots=True)
class Pricing:
    """The prices of both routes."""

    student: Price
    teacher: Price


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, under which id, and what the settings say of all requests."""

    request_id: str
    key_id: str | None
    aliases: Mapping[str, str]
    log_content: bool


@dataclass(slots=True)
class Call:
    """Filled in along `gateway/relay.py`."""

    id: str
    body: dict[str, Any]
    view: RequestView
    asked: Asked
    stream: bool
    model: str
    target: str
    key_id: str | None
    keep_content: bool
    trainable: bool
    tags: list[str]
    forwarded: dict[str, str]
    created_at: int = field(default_factory=now_ms)
    started: float = field(default_factory=time.perf_counter)
    decision: Decision = UNDECIDED
    release_id: str | None = None
    confidence: float | None = None
    attempt: Answer | None = None
    """The student's answer that was abandoned for the teacher."""
    first_token_ms: float | None = None

    def elapsed_ms(self) -> float:
        """Since the request came in."""
        return (time.perf_counter() - self.started) * 1000

    def saw_first_token(self) -> None:
        """Called with every event of a stream; the first one counts."""
        if self.first_token_ms is None:
            self.first_token_ms = self.elapsed_ms()

    def headers(self) -> dict[str, str]:
        """What every answer carries."""
        headers = {
            "x-request-id": self.id,
            "x-stillroom-route": self.decision.route,
            "x-stillroom-reason": self.decision.reason,
        }
        if self.release_id:
            headers["x-stillroom-release"] = self.release_id
        return headers

    def record(self, answer: Answer, pricing: Pricing, status: int, error_code: str | None) -> RequestRecord:
        """The ledger's row. A teacher's answer to the same tokens is the baseline."""
        attempt = self.attempt.tokens if self.attempt else Tokens()
        price = pricing.student if self.decision.route == "student" else pricing.teacher
        # tokens of an answer that nobody saw the end of are billed all the same
        billed = status < 400 or answer.tokens != Tokens()
        cost = cost_nano(price, answer.tokens) if billed else 0
        if self.attempt is not None:
            cost += cost_nano(pricing.student, attempt)
        teacher_logprobs = answer.logprobs if self.decision.route == "teacher" else None
        content = Content(
            messages=self.body["messages"],
            parameters={name: value for name, value in self.body.items() if name not in NOT_PARAMETERS},
            answer=answer.text,
            student_answer=self.attempt.text if self.attempt else None,
            teacher_logprobs=teacher_logprobs or None,
        )
        return RequestRecord(
            id=self.id,
            created_at=self.created_at,
            key_id=self.key_id,
            model=self.model,
            route=self.decision.route,
            reason=self.decision.reason,
            release_id=self.release_id,
            score=self.decision.score,
            confidence=self.confidence,
            propensity=self.decision.propensity,
            status=status,
            error_code=error_code,
            finish_reason=answer.finish_reason,
            stream=self.stream,
            prompt_tokens=answer.tokens.prompt,
            completion_tokens=answer.tokens.completion,
            cached_tokens=answer.tokens.cached,
            attempt_prompt_tokens=attempt.prompt,
            attempt_completion_tokens=attempt.completion,
            cost_nano=cost,
            baseline_nano=cost_nano(pricing.teacher, answer.tokens) if billed else 0,
            latency_ms=self.elapsed_ms(),
            first_token_ms=self.first_token_ms,
            tags=self.tags,
            trainable=self.trainable,
            content=content if self.keep_content else None,
        )


def read_call(raw: bytes, headers: Mapping[str, str], caller: Caller) -> Call:
    """Read a request's body and headers. Raises `BadRequest` or `NotFound` with the parameter that is wrong."""
    body = _decode(raw)
    model = body.get("model")
    if not isinstance(model, str):
        raise BadRequest("you must provide a model parameter", param="model")
    target = caller.aliases.get(model, model)
    if target not in MODELS:
        message = f"The model `{model[:MAX_SHOWN]}` does not exist or you do not have access to it."
        raise NotFound(message, code="model_not_found")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadRequest("'messages' must be a list of at least one message", param="messages")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise BadRequest("'stream' must be a boolean", param="stream")
    pinned = headers.get("x-stillroom-route", "auto")
    if pinned not in MODELS:
        raise BadRequest("x-stillroom-route must be auto, student or teacher", param="x-stillroom-route")
    log = headers.get("x-stillroom-log", "on")
    if log not in ("on", "off"):
        raise BadRequest("x-stillroom-log must be on or off", param="x-stillroom-log")
    tags = [tag.strip()[:100] for tag in headers.get("x-stillroom-tags", "").split(",") if tag.strip()]
    return Call(
        id=caller.request_id,
        body=body,
        view=RequestView.from_body(body),
        asked=_asked(body),
        stream=bool(stream),
        model=model,
        target=pinned if target == "auto" else target,
        key_id=caller.key_id,
        keep_content=caller.log_content and log == "on",
        trainable=log == "on" and body.get("store") is not False,
        tags=tags[:20],
        # an upstream's headers are ASCII
        forwarded={name: headers[name] for name in FORWARDED_HEADERS if name in headers and headers[name].isascii()},
    )


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        return decode_object(raw)
    except NotJson as error:
        raise BadRequest(f"We could not parse the JSON body of your request: {error}") from error


def _asked(body: dict[str, Any]) -> Asked:
    top = body.get("top_logprobs")
    if top is not None and (not isinstance(top, int) or isinstance(top, bool) or not 0 <= top <= 20):
        raise BadRequest("'top_logprobs' must be an integer between 0 and 20", param="top_logprobs")
    return Asked.by(body)
