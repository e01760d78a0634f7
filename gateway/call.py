"""One chat request on its way through the gateway: what came in, what was decided, what is recorded of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gateway.answer import Answer, Asked
from gateway.error_codes import Code
from gateway.errors import BadRequest, NotFound
from gateway.tokens import least_likely, scored
from gateway.wire import NotJson, as_written, decode_object
from ledger.policies import UNBOUND, KeyPolicy
from ledger.prices import Price, Tokens, cost_nano
from ledger.records import Content, RequestRecord
from ledger.replays import REPLAY
from ledger.store import now_ms
from router.features import RequestView
from router.policy import Decision

if TYPE_CHECKING:
    from gateway.tracing import Trace

__all__ = (
    "CHAT", "MAX_TAGS", "MODELS", "Call", "Caller", "Endpoint", "Pricing", "begin_call", "decode_body", "read_call",
)  # fmt: skip

MODELS: Final = ("auto", "student", "teacher")
FORWARDED_HEADERS: Final = ("traceparent", "tracestate", "openai-organization", "openai-project")
MAX_SHOWN: Final = 200
NOT_PARAMETERS: Final = ("messages", "prompt", "model", "stream", "stream_options", "logprobs", "top_logprobs")
MAX_TAGS: Final = 20
UNDECIDED: Final = Decision("teacher", "no_release", None, 1.0)


@dataclass(frozen=True, slots=True)
class Pricing:
    """The prices of both routes."""

    student: Price
    teacher: Price


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI endpoint: its name in the ledger, and the path below an upstream's base URL that answers it."""

    name: str
    path: str
    chat: bool = True
    """False where the path takes a prompt, and gives its log-probabilities in the older shape."""


CHAT: Final = Endpoint("chat.completions", "/chat/completions")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, under which id, and what the settings and the key say of all requests."""

    request_id: str
    key_id: str | None
    aliases: Mapping[str, str]
    log_content: bool
    policy: KeyPolicy = UNBOUND


@dataclass(frozen=True, slots=True)
class Lost:
    """What was generated in vain. The price is the route's where none is given."""

    route: str
    tokens: Tokens
    price: Price | None


@dataclass(slots=True)
class Call:
    """Filled in along `gateway/relay.py`."""

    id: str
    endpoint: Endpoint
    body: dict[str, Any]
    """As it is asked of the upstream, but for what `gateway/bodies.py` adds."""
    messages: list[dict[str, Any]]
    """The conversation as the ledger keeps it."""
    view: RequestView
    asked: Asked
    stream: bool
    model: str
    target: str
    """The route that answers, come what may, or ``auto``."""
    key_id: str | None
    keep_content: bool
    trainable: bool
    tags: list[str]
    forwarded: dict[str, str]
    created_at: int = field(default_factory=now_ms)
    started: float = field(default_factory=time.perf_counter)
    decision: Decision = UNDECIDED
    aim: str = "pinned"
    """The reason of the route where the target is one."""
    release_id: str | None = None
    confidence: float | None = None
    attempt: Answer | None = None
    """The student's answer that was abandoned for the teacher."""
    lost: list[Lost] = field(default_factory=list[Lost])
    """The answers that nobody saw the end of, because another took their place or none did."""
    price: Price | None = None
    """Of the upstream that answered, where it is not its route's."""
    expected_cost: float | None = None
    """What the teacher was expected to cost when the pacer let this request pass to it."""
    may_fall_back: bool = True
    """Whether the student may answer for a teacher that is down."""
    first_token_ms: float | None = None
    written: dict[str, Any] | None = None
    """The fields of `body` as the client's own bytes, where it is the client's."""
    trace: "Trace | None" = None
    """Its span, where requests are traced."""

    def elapsed_ms(self) -> float:
        """Since the request came in."""
        return (time.perf_counter() - self.started) * 1000

    def lose(self, route: str, answer: Answer) -> None:
        """What was generated of an answer that is abandoned, or broke off, is billed all the same."""
        if answer.tokens != Tokens():
            self.lost.append(Lost(route, answer.tokens, self.price))

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
        if "traceparent" in self.forwarded:
            headers["traceparent"] = self.forwarded["traceparent"]
        return headers

    def record(self, answer: Answer, pricing: Pricing, status: int, error_code: Code | None) -> RequestRecord:
        """The ledger's row. A teacher's answer to the same tokens is the baseline."""
        price = self.price or getattr(pricing, self.decision.route)
        # tokens of an answer that nobody saw the end of are billed all the same
        billed = status < 400 or answer.tokens != Tokens()
        cost = cost_nano(price, answer.tokens) if billed else 0
        cost += sum(cost_nano(each.price or getattr(pricing, each.route), each.tokens) for each in self.lost)
        student, teacher_logprobs = (
            (answer, None) if self.decision.route == "student" else (self.attempt, answer.logprobs)
        )
        content = Content(
            messages=self.messages,
            parameters={name: value for name, value in self.body.items() if name not in NOT_PARAMETERS},
            answer=answer.text,
            tool_calls=answer.tool_calls,
            student_answer=self.attempt.text if self.attempt else None,
            student_finish_reason=self.attempt.finish_reason if self.attempt else None,
            student_tool_calls=self.attempt.tool_calls if self.attempt else None,
            teacher_logprobs=teacher_logprobs or None,
            least_likely=least_likely(student.logprobs) if student else None,
            student_tokens=scored(student.logprobs) if student and self.keep_content else None,
        )
        return RequestRecord(
            id=self.id,
            endpoint=self.endpoint.name,
            created_at=self.created_at,
            key_id=self.key_id,
            model=self.model,
            route=self.decision.route,
            reason=self.decision.reason,
            release_id=self.release_id,
            score=self.decision.score,
            confidence=self.confidence,
            novelty=self.decision.novelty,
            propensity=self.decision.propensity,
            status=status,
            error_code=error_code,
            finish_reason=answer.finish_reason,
            stream=self.stream,
            prompt_tokens=answer.tokens.prompt,
            completion_tokens=answer.tokens.completion,
            cached_tokens=answer.tokens.cached,
            attempt_prompt_tokens=sum(each.tokens.prompt for each in self.lost),
            attempt_completion_tokens=sum(each.tokens.completion for each in self.lost),
            cost_nano=cost,
            # nobody would have asked the teacher for a replay
            baseline_nano=cost_nano(pricing.teacher, answer.tokens) if billed and self.aim != REPLAY else 0,
            latency_ms=self.elapsed_ms(),
            first_token_ms=self.first_token_ms,
            tags=self.tags,
            trainable=self.trainable,
            content=content if self.keep_content else None,
        )


def read_call(raw: bytes, headers: Mapping[str, str], caller: Caller) -> Call:
    """Read a chat request's body and headers. Raises `BadRequest` or `NotFound` with the parameter that is wrong."""
    body = decode_body(raw)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadRequest("'messages' must be a list of at least one message", param="messages")
    call = begin_call(CHAT, body, messages, headers, caller)
    call.written = as_written(raw)
    return call


def begin_call(
    endpoint: Endpoint,
    body: dict[str, Any],
    messages: list[dict[str, Any]],
    headers: Mapping[str, str],
    caller: Caller,
) -> Call:
    """A call from a body that `endpoint` takes, and from the conversation in it as chat messages.

    Raises `BadRequest` or `NotFound` for what every endpoint reads alike: model, stream, logprobs, our headers.
    """
    model = body.get("model")
    if not isinstance(model, str):
        raise BadRequest("you must provide a model parameter", param="model")
    target = caller.aliases.get(model, model)
    if target not in MODELS:
        message = f"The model `{model[:MAX_SHOWN]}` does not exist or you do not have access to it."
        raise NotFound(message, code="model_not_found")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise BadRequest("'stream' must be a boolean", param="stream")
    pinned = headers.get("x-stillroom-route", "auto")
    if pinned not in MODELS:
        raise BadRequest("x-stillroom-route must be auto, student or teacher", param="x-stillroom-route")
    log, fall_back = _switch(headers, "x-stillroom-log"), _switch(headers, "x-stillroom-fallback")
    policy = caller.policy
    sent = [tag.strip()[:100] for tag in headers.get("x-stillroom-tags", "").split(",") if tag.strip()]
    target = pinned if target == "auto" else target
    # the key's own first: a caller cannot push them out
    tags = [*policy.tags, *(tag for tag in sent if tag not in policy.tags)][:MAX_TAGS]
    return Call(
        id=caller.request_id,
        endpoint=endpoint,
        body=body,
        messages=messages,
        view=RequestView.from_body(body | {"messages": messages}, tags),
        asked=_asked(body),
        stream=bool(stream),
        model=model,
        target=policy.default_route if target == "auto" else target,
        key_id=caller.key_id,
        keep_content=caller.log_content and policy.log_content and log,
        trainable=log and body.get("store") is not False,
        tags=tags,
        # an upstream's headers are ASCII
        forwarded={name: headers[name] for name in FORWARDED_HEADERS if name in headers and headers[name].isascii()},
        may_fall_back=fall_back,
    )


def _switch(headers: Mapping[str, str], name: str) -> bool:
    value = headers.get(name, "on")
    if value not in ("on", "off"):
        raise BadRequest(f"{name} must be on or off", param=name)
    return value == "on"


def decode_body(raw: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises `BadRequest`."""
    try:
        return decode_object(raw)
    except NotJson as error:
        raise BadRequest(f"We could not parse the JSON body of your request: {error}") from error


def _asked(body: dict[str, Any]) -> Asked:
    top = body.get("top_logprobs")
    if top is not None and (not isinstance(top, int) or isinstance(top, bool) or not 0 <= top <= 20):
        raise BadRequest("'top_logprobs' must be an integer between 0 and 20", param="top_logprobs")
    return Asked.by(body)
