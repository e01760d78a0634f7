"""A chat request's path: decide, ask the student, read its confidence, escalate, ask the teacher, record.

Whole answers take `answer`, streams take `open_stream`; both follow the same steps.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import msgspec

from gateway import upstream
from gateway.answer import Answer, signals
from gateway.call import Call, Pricing
from gateway.errors import ApiError, Unavailable, UpstreamError, error_body
from gateway.explore import Explorer
from gateway.live import Live, LiveRelease
from gateway.metrics import Metrics
from gateway.recorder import Recorder
from gateway.sse import DONE, EventTooLarge, event_data, events, frame
from gateway.upstream import Upstream, UpstreamReply
from router.policy import Capabilities, Decision, decide, escalate
from router.signals import SIGNAL_TOP

__all__ = ("PlainReply", "Relay", "StreamReply")

CLIENT_GONE = 499

_encode = msgspec.json.encode
_decode = msgspec.json.decode


@dataclass(frozen=True, slots=True)
class PlainReply:
    """A whole answer for the client."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class StreamReply:
    """A stream for the client, its route settled before the first byte."""

    headers: dict[str, str]
    events: AsyncGenerator[bytes, None]


@dataclass(frozen=True, slots=True)
class Relay:
    """What every request shares."""

    client: httpx.AsyncClient
    live: Live
    teacher: Upstream
    student: Upstream
    """A template: its URL is that of a ready replica of the live release."""
    capabilities: Capabilities
    pricing: Pricing
    hold_tokens: int
    router_enabled: bool
    harvest_top_logprobs: int
    recorder: Recorder
    metrics: Metrics
    explorer: Explorer

    async def answer(self, call: Call) -> PlainReply:
        """Answer a request that is not streamed. Raises `ApiError` or `UpstreamError`, recorded."""
        release = self._decide(call)
        with self._failures_recorded(call):
            reply = None
            if call.decision.route == "student":
                reply = await self._ask_student(call, release)
            if reply is None:
                reply = await self._ask_teacher(call)
            return reply

    async def open_stream(self, call: Call) -> StreamReply | PlainReply:
        """Begin a stream, and return when its route is settled. A 4xx of the upstream is a `PlainReply`."""
        release = self._decide(call)
        with self._failures_recorded(call):
            reply = None
            if call.decision.route == "student":
                reply = await self._stream_student(call, release)
            if reply is None:
                reply = await self._stream_teacher(call)
            return reply

    def abandoned(self, call: Call) -> None:
        """Record a request whose client left before it was answered."""
        self._record(call, Answer(), CLIENT_GONE, "client_closed")

    # deciding

    def _decide(self, call: Call) -> LiveRelease | None:
        release = self.live.snapshot.release
        call.release_id = release.id if release else None
        if call.target != "auto":
            route = "student" if call.target == "student" else "teacher"
            call.decision = Decision(route, "pinned", None, 1.0)
        elif not self.router_enabled:
            call.decision = Decision("teacher", "pinned", None, 1.0)
        else:
            call.decision = decide(call.view, release.router if release else None, self.capabilities)
        return release

    def _divert(self, call: Call, reason: str, attempt: Answer | None = None) -> None:
        call.decision = replace(call.decision, route="teacher", reason=reason)
        call.attempt = attempt

    def _is_confident(self, call: Call, release: LiveRelease, answer: Answer) -> bool:
        """Read the student's confidence; a pinned request is the student's whatever it is."""
        if call.decision.reason == "pinned" or call.decision.score is None:
            return True
        doubtful, call.confidence = escalate(
            release.router, call.decision.score, signals(answer.logprobs, self.hold_tokens)
        )
        return not doubtful

    # whole answers

    async def _ask_student(self, call: Call, release: LiveRelease | None) -> PlainReply | None:
        """The student's answer, or None when the teacher is to answer."""
        student = self._ready_student(call, release)
        if student is None or release is None:
            return None
        try:
            reply = await upstream.post(self.client, student, self._student_body(call, student), call.forwarded)
        except UpstreamError:
            self._student_failed(call)
            return None
        if reply.status >= 400:
            return self._student_refused(call, reply)
        body, answer = _read_whole(student, reply)
        if not self._is_confident(call, release, answer):
            self._divert(call, "low_confidence", answer)
            return None
        return self._finish_whole(call, reply, body, answer)

    async def _ask_teacher(self, call: Call) -> PlainReply:
        body = self._teacher_body(call)
        try:
            reply = await upstream.post(self.client, self.teacher, body, call.forwarded)
        except UpstreamError:
            self.metrics.upstream_errors.labels("teacher").inc()
            return await self._without_teacher(call)
        if reply.status >= 400:
            return self._refused(call, reply)
        content, answer = _read_whole(self.teacher, reply)
        return self._finish_whole(call, reply, content, answer)

    async def _without_teacher(self, call: Call) -> PlainReply:
        """The student answers where the teacher cannot, unless the request is one it cannot do."""
        release = self.live.snapshot.release
        able = call.decision.reason in ("hard", "low_confidence") and call.target == "auto"
        if not able or release is None or not release.student_urls:
            raise Unavailable("The teacher cannot be reached, and this request cannot be answered without it.")
        call.decision = Decision("student", "teacher_down", call.decision.score, call.decision.propensity)
        student = replace(self.student, base_url=release.student_urls[0])
        reply = await upstream.post(self.client, student, self._student_body(call, student), call.forwarded)
        if reply.status >= 400:
            return self._refused(call, reply)
        body, answer = _read_whole(student, reply)
        return self._finish_whole(call, reply, body, answer)

    def _finish_whole(self, call: Call, reply: UpstreamReply, body: dict[str, Any], answer: Answer) -> PlainReply:
        changed = answer.hide(body, call.asked)
        self._record(call, answer, 200)
        self.explorer.consider(call, answer)
        return PlainReply(200, reply.headers | call.headers(), _encode(body) if changed else reply.body)

    # streams

    async def _stream_student(self, call: Call, release: LiveRelease | None) -> StreamReply | PlainReply | None:
        """The student's stream once its first tokens are trusted, or None when the teacher is to answer."""
        student = self._ready_student(call, release)
        if student is None or release is None:
            return None
        async with contextlib.AsyncExitStack() as stack:
            try:
                opened = await stack.enter_async_context(
                    upstream.stream(self.client, student, self._student_body(call, student), call.forwarded)
                )
                if isinstance(opened, UpstreamReply):
                    return self._student_refused(call, opened)
                answer = Answer()
                read = self._read_stream(call, answer, opened)
                held = await self._hold(read, answer)
            except UpstreamError:
                self._student_failed(call)
                return None
            if not self._is_confident(call, release, answer):
                self._divert(call, "low_confidence", answer)
                return None
            return StreamReply(call.headers(), self._pass_on(call, answer, held, read, stack.pop_all()))

    async def _stream_teacher(self, call: Call) -> StreamReply | PlainReply:
        async with contextlib.AsyncExitStack() as stack:
            try:
                opened = await stack.enter_async_context(
                    upstream.stream(self.client, self.teacher, self._teacher_body(call), call.forwarded)
                )
            except UpstreamError:
                self.metrics.upstream_errors.labels("teacher").inc()
                return await self._stream_without_teacher(call)
            if isinstance(opened, UpstreamReply):
                return self._refused(call, opened)
            answer = Answer()
            read = self._read_stream(call, answer, opened)
            return StreamReply(call.headers(), self._pass_on(call, answer, [], read, stack.pop_all()))

    async def _stream_without_teacher(self, call: Call) -> StreamReply:
        release = self.live.snapshot.release
        able = call.decision.reason in ("hard", "low_confidence") and call.target == "auto"
        if not able or release is None or not release.student_urls:
            raise Unavailable("The teacher cannot be reached, and this request cannot be answered without it.")
        call.decision = Decision("student", "teacher_down", None, call.decision.propensity)
        reply = await self._stream_student(call, release)
        if not isinstance(reply, StreamReply):
            raise Unavailable("Neither the teacher nor the student can be reached.")
        return reply

    async def _hold(self, read: AsyncIterator[bytes], answer: Answer) -> list[bytes]:
        """Hold the stream back until there are enough tokens to judge, or it is over."""
        held: list[bytes] = []
        async for event in read:
            held.append(event)
            if len(answer.logprobs) >= self.hold_tokens or answer.finish_reason is not None:
                break
        return held

    async def _read_stream(
        self, call: Call, answer: Answer, chunks: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        """The upstream's events, read into `answer`, without what the client did not ask for.

        Ends after ``[DONE]``. Raises `UpstreamError` for a stream that ends without it.
        """
        async for event in events(chunks):
            data = event_data(event)
            if data is None:
                yield event
                continue
            if data == DONE:
                return
            body = _decode(data)
            answer.read(body)
            if not call.asked.stream_usage and not body.get("choices") and "usage" in body:
                continue
            yield frame(_encode(body)) if answer.hide(body, call.asked) else event
        raise UpstreamError("upstream", "broke its stream off")

    async def _pass_on(
        self,
        call: Call,
        answer: Answer,
        held: list[bytes],
        read: AsyncGenerator[bytes, None],
        stack: contextlib.AsyncExitStack,
    ) -> AsyncGenerator[bytes, None]:
        """What the client sees: the events, and the record before the last of them."""
        status, code = CLIENT_GONE, "client_closed"
        try:
            call.first_token_ms = call.elapsed_ms()
            for event in held:
                yield event
            async for event in read:
                yield event
            status, code = 200, None
            self._record(call, answer, 200)
            self.explorer.consider(call, answer)
            yield frame(DONE)
        except (UpstreamError, EventTooLarge, msgspec.DecodeError) as error:
            status, code = 502, "upstream_error"
            self.metrics.upstream_errors.labels(call.decision.route).inc()
            yield frame(_encode(error_body(f"The stream broke off: {error}", "server_error", code)))
        finally:
            if status != 200:
                self._record(call, answer, status, code)
            await read.aclose()
            await stack.aclose()

    # what both share

    def _ready_student(self, call: Call, release: LiveRelease | None) -> Upstream | None:
        if release is not None and release.student_urls:
            return replace(self.student, base_url=release.student_urls[0])
        if call.target == "student":
            raise Unavailable("There is no student to answer: no release is live and ready.")
        self._divert(call, "student_down")
        return None

    def _student_failed(self, call: Call) -> None:
        self.metrics.upstream_errors.labels("student").inc()
        if call.target == "student":
            raise Unavailable("The student cannot be reached.")
        self._divert(call, "student_down")

    def _student_refused(self, call: Call, reply: UpstreamReply) -> PlainReply | None:
        """What the student's server does not take, the teacher may: the client's request is not narrowed."""
        if call.target == "student":
            return self._refused(call, reply)
        self._divert(call, "unsupported")
        return None

    def _refused(self, call: Call, reply: UpstreamReply) -> PlainReply:
        body = _openai_error(reply.body) or _encode(
            error_body("The model's server refused the request.", "invalid_request_error", "upstream_refused")
        )
        self._record(call, Answer(), reply.status, "upstream_refused")
        return PlainReply(reply.status, reply.headers | call.headers(), body)

    def _student_body(self, call: Call, student: Upstream) -> dict[str, Any]:
        body = _with_usage(call.body | {"model": student.model}, call.stream)
        wanted = max(SIGNAL_TOP, call.asked.top_logprobs)
        return body | {"logprobs": True, "top_logprobs": wanted}

    def _teacher_body(self, call: Call) -> dict[str, Any]:
        body = _with_usage(call.body | {"model": self.teacher.model}, call.stream)
        if self.harvest_top_logprobs and call.keep_content and call.view.n == 1 and not call.view.has_tools:
            wanted = max(self.harvest_top_logprobs, call.asked.top_logprobs)
            body |= {"logprobs": True, "top_logprobs": wanted}
        return body

    def _record(self, call: Call, answer: Answer, status: int, code: str | None = None) -> None:
        self.recorder.record(call.record(answer, self.pricing, status, code))

    @contextlib.contextmanager
    def _failures_recorded(self, call: Call) -> Generator[None]:
        try:
            yield
        except ApiError as error:
            self._record(call, Answer(), error.status, error.code)
            error.headers |= call.headers()
            raise
        except UpstreamError:
            self._record(call, Answer(), 502, "upstream_error")
            raise


def _with_usage(body: dict[str, Any], stream: bool) -> dict[str, Any]:
    if not stream:
        return body
    options = body.get("stream_options")
    options = options if isinstance(options, dict) else {}
    return body | {"stream_options": options | {"include_usage": True}}


def _read_whole(source: Upstream, reply: UpstreamReply) -> tuple[dict[str, Any], Answer]:
    try:
        body = _decode(reply.body)
    except msgspec.DecodeError as error:
        raise UpstreamError(source.name, "answered with something that is not JSON", 502) from error
    answer = Answer()
    answer.read(body)
    return body, answer


def _openai_error(body: bytes) -> bytes | None:
    try:
        decoded = _decode(body)
    except msgspec.DecodeError:
        return None
    return body if isinstance(decoded, dict) and isinstance(decoded.get("error"), dict) else None
