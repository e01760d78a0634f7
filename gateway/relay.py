"""A chat request's path: decide, ask the student, read its confidence, escalate, ask the teacher, record.

Whole answers take `answer`, streams take `open_stream`; both follow the same steps.
"""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import httpx
import structlog

from gateway import upstream
from gateway.answer import Answer, signals
from gateway.bodies import student_body, teacher_body
from gateway.call import Call, Pricing
from gateway.errors import ApiError, Unavailable, UpstreamError, error_body, refusal_body, unavailable
from gateway.explore import Explorer
from gateway.live import Live, LiveRelease
from gateway.metrics import Metrics
from gateway.recorder import Recorder
from gateway.sse import DONE, frame
from gateway.streams import hold, read_stream
from gateway.upstream import Upstream, UpstreamReply
from gateway.wire import NotJson, decode_object, encode
from router.policy import Capabilities, Decision, decide, escalate

__all__ = ("CLIENT_GONE", "PlainReply", "Relay", "StreamReply")

CLIENT_GONE: Final = 499

Reply = TypeVar("Reply")

log = structlog.get_logger(__name__)


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
        """Answer a request that is not streamed. Raises `ApiError`, recorded."""
        release = self._decide(call)
        with self._failures_recorded(call):
            reply = await self._ask_student(call, release) if call.decision.route == "student" else None
            return reply or await self._ask_teacher(call, release)

    async def open_stream(self, call: Call) -> StreamReply | PlainReply:
        """Begin a stream, and return when its route is settled. A 4xx of the upstream is a `PlainReply`.

        Raises `ApiError`, recorded.
        """
        release = self._decide(call)
        with self._failures_recorded(call):
            reply = await self._stream_student(call, release) if call.decision.route == "student" else None
            return reply or await self._stream_teacher(call, release)

    def abandoned(self, call: Call, status: int, code: str) -> None:
        """Record a request that ended before it was answered."""
        self._record(call, Answer(), status, code)

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

    def _divert(self, call: Call, reason: str) -> None:
        call.decision = replace(call.decision, route="teacher", reason=reason)

    def _is_confident(self, call: Call, release: LiveRelease, answer: Answer) -> bool:
        """Read the student's confidence; who has no other choice takes its answer whatever it is."""
        score = call.decision.score
        if call.decision.reason != "confident" or score is None:
            return True
        doubtful, call.confidence = escalate(release.router, score, signals(answer.logprobs, self.hold_tokens))
        if doubtful:
            self._divert(call, "low_confidence")
            call.attempt = answer
        return not doubtful

    # whole answers

    async def _ask_student(self, call: Call, release: LiveRelease | None) -> PlainReply | None:
        """The student's answer, or None when the teacher is to answer."""
        student = self._ready_student(call, release)
        if student is None or release is None:
            return None
        try:
            reply, answer = await self._ask(call, student, student_body(call, student))
        except UpstreamError as error:
            return self._student_failed(call, error)
        if reply.status >= 400:
            return self._student_refused(call, reply)
        if not self._is_confident(call, release, answer):
            return None
        return self._finish_whole(call, reply, answer)

    async def _ask_teacher(self, call: Call, release: LiveRelease | None) -> PlainReply:
        asked = teacher_body(call, self.teacher, self.harvest_top_logprobs)
        try:
            reply, answer = await self._ask(call, self.teacher, asked)
        except UpstreamError as error:
            return await self._without_teacher(call, release, error, self._ask_student)
        if reply.status >= 400:
            return self._refused(call, reply)
        return self._finish_whole(call, reply, answer)

    async def _ask(self, call: Call, source: Upstream, asked: dict[str, Any]) -> tuple[UpstreamReply, Answer]:
        """A whole answer, read, without what the client must not see; a 4xx as it came. Raises `UpstreamError`."""
        reply = await upstream.post(self.client, source, asked, call.forwarded)
        answer = Answer()
        if reply.status >= 400:
            return reply, answer
        try:
            body = decode_object(reply.body)
            answer.read(body)
            if answer.hide(body, call.asked):
                reply = replace(reply, body=encode(body))
        except NotJson as error:
            raise UpstreamError(source.name, "answered with something that is not a JSON object") from error
        return reply, answer

    def _finish_whole(self, call: Call, reply: UpstreamReply, answer: Answer) -> PlainReply:
        self._record(call, answer, 200)
        self.explorer.consider(call, answer)
        return PlainReply(200, reply.headers | call.headers(), reply.body)

    # streams

    async def _stream_student(self, call: Call, release: LiveRelease | None) -> StreamReply | PlainReply | None:
        """The student's stream once its first tokens are trusted, or None when the teacher is to answer."""
        student = self._ready_student(call, release)
        if student is None or release is None:
            return None
        async with contextlib.AsyncExitStack() as stack:
            try:
                opened = await stack.enter_async_context(
                    upstream.stream(self.client, student, student_body(call, student), call.forwarded)
                )
                if isinstance(opened, UpstreamReply):
                    return self._student_refused(call, opened)
                answer = Answer()
                read = read_stream(student.name, call.asked, answer, opened)
                held = await hold(read, answer, self.hold_tokens)
            except UpstreamError as error:
                return self._student_failed(call, error)
            if not self._is_confident(call, release, answer):
                await read.aclose()
                return None
            return StreamReply(call.headers(), self._pass_on(call, answer, held, read, stack.pop_all()))

    async def _stream_teacher(self, call: Call, release: LiveRelease | None) -> StreamReply | PlainReply:
        asked = teacher_body(call, self.teacher, self.harvest_top_logprobs)
        async with contextlib.AsyncExitStack() as stack:
            try:
                opened = await stack.enter_async_context(
                    upstream.stream(self.client, self.teacher, asked, call.forwarded)
                )
            except UpstreamError as error:
                return await self._without_teacher(call, release, error, self._stream_student)
            if isinstance(opened, UpstreamReply):
                return self._refused(call, opened)
            answer = Answer()
            read = read_stream(self.teacher.name, call.asked, answer, opened)
            return StreamReply(call.headers(), self._pass_on(call, answer, [], read, stack.pop_all()))

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
            for event in held:
                call.saw_first_token()
                yield event
            async for event in read:
                call.saw_first_token()
                yield event
            status, code = 200, None
            self._record(call, answer, 200)
            self.explorer.consider(call, answer)
            yield frame(DONE)
        except UpstreamError as error:
            status, code = 502, "upstream_error"
            self._count(error)
            self._record(call, answer, status, code)
            yield frame(encode(error_body(f"The stream broke off: {error}.", "server_error", code)))
        finally:
            if status == CLIENT_GONE:
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

    def _student_failed(self, call: Call, error: UpstreamError) -> None:
        self._count(error)
        if call.target == "student":
            raise unavailable(f"This request is the student's, and {error}.", error)
        self._divert(call, "student_down")

    def _student_refused(self, call: Call, reply: UpstreamReply) -> PlainReply | None:
        """What the student's server does not take, the teacher may: the client's request is not narrowed."""
        if call.target == "student":
            return self._refused(call, reply)
        self._divert(call, "unsupported")
        return None

    async def _without_teacher(
        self,
        call: Call,
        release: LiveRelease | None,
        error: UpstreamError,
        ask_student: Callable[[Call, LiveRelease | None], Awaitable[Reply | None]],
    ) -> Reply:
        """The student answers where the teacher cannot, unless the request is one it cannot do."""
        self._count(error)
        if call.decision.reason not in ("hard", "low_confidence") or call.target != "auto":
            raise unavailable(f"This request needs the teacher, and {error}.", error)
        call.decision = replace(call.decision, route="student", reason="teacher_down")
        reply = await ask_student(call, release)
        if reply is None:
            raise unavailable(f"The student cannot answer, and {error}.", error)
        return reply

    def _refused(self, call: Call, reply: UpstreamReply) -> PlainReply:
        """The upstream's own error, as it came where it has OpenAI's shape."""
        self._record(call, Answer(), reply.status, "upstream_refused")
        return PlainReply(reply.status, reply.headers | call.headers(), refusal_body(reply.body))

    def _count(self, error: UpstreamError) -> None:
        self.metrics.upstream_errors.labels(error.upstream).inc()
        log.warning("upstream_failed", upstream=error.upstream, why=str(error))

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
