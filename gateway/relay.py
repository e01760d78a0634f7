"""A chat request's path: decide, ask the student, read its confidence, escalate, ask the teacher, record.

Whole answers take `answer`, streams take `open_stream`; both follow the same steps.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

import structlog

from gateway.answer import Answer
from gateway.attempts import Ask, Attempts
from gateway.bodies import student_body, teacher_body
from gateway.call import Call, Pricing
from gateway.chunks import read_whole
from gateway.error_codes import Code
from gateway.errors import ApiError, Unavailable, UpstreamError, error_body, refusal_body, unavailable
from gateway.explore import Explorer
from gateway.holding import Held, open_held
from gateway.live import Live
from gateway.live_release import LiveRelease
from gateway.metrics import Metrics
from gateway.pacing import Pacing
from gateway.recorder import Recorder
from gateway.replies import CLIENT_GONE, PlainReply, StreamReply
from gateway.sse import DONE, frame
from gateway.tokens import signals
from gateway.upstream import UpstreamReply
from gateway.wire import NotJson, encode
from router.policy import Capabilities, Decision, decide, escalate

__all__ = ("Relay",)

TOO_MANY: Final = 429

Reply = TypeVar("Reply")
AskStudent: TypeAlias = Callable[[Call, LiveRelease | None], Awaitable[Reply | None]]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Relay:
    """What every request shares."""

    live: Live
    teacher: Attempts
    student: Attempts
    tried: Attempts
    """The student of a release that is on trial."""
    student_when_teacher_down: bool
    capabilities: Capabilities
    pricing: Pricing
    hold_tokens: int
    router_enabled: bool
    harvest_top_logprobs: int
    recorder: Recorder
    metrics: Metrics
    explorer: Explorer
    pacing: Pacing

    async def answer(self, call: Call) -> PlainReply:
        """Answer a request that is not streamed. Raises `ApiError`, recorded."""
        release = self._decide(call)
        try:
            reply = await self._ask_student(call, release) if call.decision.route == "student" else None
            return reply or await self._ask_teacher(call, release)
        except ApiError as error:
            self._failed(call, error)
            raise

    async def open_stream(self, call: Call) -> StreamReply | PlainReply:
        """Begin a stream, and return when its route is settled. A 4xx of the upstream is a `PlainReply`.

        Raises `ApiError`, recorded.
        """
        release = self._decide(call)
        try:
            reply = await self._stream_student(call, release) if call.decision.route == "student" else None
            return reply or await self._stream_teacher(call, release)
        except ApiError as error:
            self._failed(call, error)
            raise

    def abandoned(self, call: Call, status: int, code: Code) -> None:
        """Record a request that ended before it was answered."""
        self._record(call, Answer(), status, code)

    # deciding

    def _decide(self, call: Call) -> LiveRelease | None:
        release = self.live.snapshot.release_for(call)
        call.release_id = release.id if release else None
        if call.target != "auto":
            route = "student" if call.target == "student" else "teacher"
            call.decision = Decision(route, call.aim, None, 1.0)
        elif not self.router_enabled:
            call.decision = Decision("teacher", "pinned", None, 1.0)
        else:
            call.decision = decide(call.view, release.router if release else None, self.capabilities)
            self.pacing.decided(call, release)
        return release

    def _divert(self, call: Call, reason: str) -> None:
        call.decision = replace(call.decision, route="teacher", reason=reason, is_provisional=False)

    def _is_confident(self, call: Call, release: LiveRelease, answer: Answer, whole: bool) -> bool:
        """Read the student's confidence, from the whole answer or what was held back, where the route hangs on it."""
        score = call.decision.score
        if not call.decision.is_provisional or score is None:
            return True
        read = signals(answer.logprobs, len(answer.logprobs) if whole else self.hold_tokens)
        cut_off = answer.finish_reason == "length"
        doubtful, call.confidence = escalate(release.router, score, read, whole, cut_off)
        if not doubtful or self.pacing.keeps(call, call.confidence):
            return True
        self._divert(call, "low_confidence")
        call.attempt = answer
        return False

    # whole answers

    async def _ask_student(self, call: Call, release: LiveRelease | None) -> PlainReply | None:
        """The student's answer, or None when the teacher is to answer."""
        if not self._is_student_ready(call, release) or release is None:
            return None
        try:
            reply, answer = await self._ask(call, self._student(release), lambda source: student_body(call, source))
        except UpstreamError as error:
            return self._student_failed(call, error)
        if reply.status >= 400:
            return self._student_refused(call, reply)
        if not self._is_confident(call, release, answer, whole=True):
            call.lose("student", answer)
            return None
        return self._finish_whole(call, reply, answer)

    async def _ask_teacher(self, call: Call, release: LiveRelease | None) -> PlainReply:
        try:
            reply, answer = await self._ask(call, self.teacher, self._teacher_body(call))
        except UpstreamError as error:
            return await self._without_teacher(call, release, error, self._ask_student)
        if reply.status >= 400:
            return self._refused(call, reply)
        return self._finish_whole(call, reply, answer)

    async def _ask(self, call: Call, side: Attempts, ask: Ask) -> tuple[UpstreamReply, Answer]:
        """A whole answer, read, without what the client must not see; a 4xx as it came. Raises `UpstreamError`."""
        reply = await side.post(call, ask)
        answer = Answer()
        if reply.status >= 400:
            return reply, answer
        try:
            shown = read_whole(call.asked, answer, reply.body)
        except (NotJson, RecursionError) as error:
            raise UpstreamError(side.name, "answered with something that is not a JSON object") from error
        return reply if shown is reply.body else replace(reply, body=shown), answer

    def _finish_whole(self, call: Call, reply: UpstreamReply, answer: Answer) -> PlainReply:
        self._record(call, answer, 200)
        self.explorer.consider(call, answer)
        return PlainReply(200, reply.headers | call.headers(), reply.body)

    # streams

    async def _stream_student(self, call: Call, release: LiveRelease | None) -> StreamReply | PlainReply | None:
        """The student's stream once its first tokens are trusted, or None when the teacher is to answer."""
        if not self._is_student_ready(call, release) or release is None:
            return None
        # what does not hang on the confidence is not kept waiting for it
        tokens = self.hold_tokens if call.decision.is_provisional else 0
        try:
            held = await open_held(self._student(release), call, lambda source: student_body(call, source), tokens)
        except UpstreamError as error:
            return self._student_failed(call, error)
        if isinstance(held, UpstreamReply):
            return self._student_refused(call, held)
        if self._is_confident(call, release, held.answer, whole=False):
            return await self._begun(call, held)
        call.lose("student", held.answer)
        await held.close()
        return None

    async def _stream_teacher(self, call: Call, release: LiveRelease | None) -> StreamReply | PlainReply:
        try:
            held = await open_held(self.teacher, call, self._teacher_body(call), 0)
        except UpstreamError as error:
            return await self._without_teacher(call, release, error, self._stream_student)
        if isinstance(held, UpstreamReply):
            return self._refused(call, held)
        return await self._begun(call, held)

    async def _begun(self, call: Call, held: Held) -> StreamReply:
        events = self._pass_on(call, held)
        # a generator that has begun is ended by closing it, though nobody reads from it
        await anext(events)
        return StreamReply(held.stream.headers | call.headers(), events)

    async def _pass_on(self, call: Call, held: Held) -> AsyncGenerator[bytes, None]:
        """What the client sees after a first, empty one: the events, and the record before the last of them."""
        answer, status, code = held.answer, CLIENT_GONE, "client_closed"
        try:
            yield b""
            if held.first:
                call.saw_first_token()
                yield held.first
            async for event in held.rest:
                call.saw_first_token()
                yield event
            status, code = 200, None
            self._record(call, answer, 200)
            self.explorer.consider(call, answer)
            yield frame(DONE)
        except UpstreamError as error:
            status, code = (504, "timeout") if error.fault == "deadline" else (502, "upstream_error")
            self._count(error)
            self._record(call, answer, status, code)
            yield frame(encode(error_body(f"The stream broke off: {error}.", "server_error", code)))
        finally:
            if status == CLIENT_GONE:
                self._record(call, answer, status, code)
            await held.close()

    # what both share

    def _teacher_body(self, call: Call) -> Ask:
        return lambda source: teacher_body(call, source, self.harvest_top_logprobs)

    def _student(self, release: LiveRelease) -> Attempts:
        return self.tried if release.on_trial else self.student

    def _is_student_ready(self, call: Call, release: LiveRelease | None) -> bool:
        if release is not None and release.student_urls:
            side = self._student(release)
            side.serve_at(release.student_urls, release.id, release.student_model)
            return True
        if call.target == "student":
            raise Unavailable("There is no student to answer: no release is live and ready.")
        self._divert(call, "student_down")
        return False

    def _student_failed(self, call: Call, error: UpstreamError) -> None:
        self._count(error)
        if call.target == "student":
            raise unavailable(f"This request is the student's, and {error}.", error)
        self._divert(call, "student_down")

    def _student_refused(self, call: Call, reply: UpstreamReply) -> PlainReply | None:
        """What the student's server does not take, the teacher may: the client's request is not narrowed."""
        if call.target == "student":
            return self._refused(call, reply)
        self._divert(call, "student_down" if reply.status == TOO_MANY else "unsupported")
        return None

    async def _without_teacher(
        self, call: Call, release: LiveRelease | None, error: UpstreamError, ask_student: AskStudent[Reply]
    ) -> Reply:
        """The student answers where the teacher cannot, unless the request is one it cannot do."""
        self._count(error)
        if not self._may_stand_in(call):
            raise unavailable(f"This request needs the teacher, and {error}.", error)
        call.decision = replace(call.decision, route="student", reason="teacher_down")
        reply = await ask_student(call, release)
        if reply is None:
            raise unavailable(f"The student cannot answer, and {error}.", error)
        return reply

    def _may_stand_in(self, call: Call) -> bool:
        allowed = call.target == "auto" and call.may_fall_back and self.student_when_teacher_down
        return allowed and call.decision.reason in ("hard", "low_confidence")

    def _refused(self, call: Call, reply: UpstreamReply) -> PlainReply:
        """The upstream's own error, as it came where it has OpenAI's shape."""
        self._record(call, Answer(), reply.status, "upstream_refused")
        return PlainReply(reply.status, reply.headers | call.headers(), refusal_body(reply.body))

    def _count(self, error: UpstreamError) -> None:
        self.metrics.upstream_errors.labels(error.upstream).inc()
        if error.fault != "open":
            # a breaker tells of itself, once
            log.warning("upstream_failed", upstream=error.upstream, why=str(error))

    def _record(self, call: Call, answer: Answer, status: int, code: Code | None = None) -> None:
        record = call.record(answer, self.pricing, status, code)
        if call.trace is not None:
            call.trace.end(record)
        self.recorder.record(record)
        self.pacing.recorded(call, record)

    def _failed(self, call: Call, error: ApiError) -> None:
        self._record(call, Answer(), error.status, error.code)
        error.headers |= call.headers()
