"""One side of the gateway, the student's or the teacher's: which of its upstreams is asked, how often, how long.

Who is next, `gateway/members.py` says; one whose breaker is open is passed over. What failed before its first byte
may be tried again: on another upstream at once, on the same one after a pause with full jitter. A budget bounds these
further attempts to a share of what is in flight, so that an upstream that flaps is not asked the more for it. What a
server had that is gone goes to another one whatever the budget: so does all that comes after.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

import httpx

from gateway import upstream
from gateway.call import Call
from gateway.errors import Fault, UpstreamError
from gateway.faults import WHY
from gateway.hedging import abandon, first_good
from gateway.members import Member, Members, Order
from gateway.metrics import Metrics
from gateway.retries import is_gone, is_good, is_retried, pause_before
from gateway.upstream import Question, Stream, Upstream, UpstreamReply
from gateway.wire import encode

__all__ = ("Ask", "Attempts", "Patience")

MIN_RETRIES: Final = 3
RETRY_SHARE: Final = 5
"""One further attempt for so many requests in flight, and `MIN_RETRIES` however few there are."""
HARMLESS: Final[frozenset[Fault]] = frozenset({"refused"})
"""Says nothing of the upstream's health: our key or its URL is wrong."""

Ask: TypeAlias = Callable[[Upstream], dict[str, Any]]
"""The body for an upstream."""
Send: TypeAlias = Callable[[httpx.AsyncClient, Upstream, Question], Awaitable[UpstreamReply | Stream]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How much is waited and tried. Times are seconds."""

    retries: int
    """Further attempts, over all upstreams together."""
    max_retry_after_s: float
    """An upstream that wants a longer pause is not asked again."""
    total_s: float
    """For this side's answer."""
    request_s: float
    """For the whole request, whoever answers it."""
    hedge_after_s: float = 0.0
    """Ask a second time when the first byte takes longer; 0 for never."""


@dataclass(slots=True)
class _Course:
    """One request's way over this side."""

    call: Call
    ask: Ask
    send: Send
    deadline: float
    key: int
    """What its place goes by."""
    members: list[Member]
    """Of the request's own release, though another is promoted meanwhile."""
    tried: list[Member] = field(default_factory=list[Member])
    """The one tried last is at the end."""
    attempts: int = 0


_Outcome: TypeAlias = tuple[Member, UpstreamReply | Stream | UpstreamError]


class Attempts:
    """The upstreams of a side, asked in this order."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        patience: Patience,
        client: httpx.AsyncClient,
        metrics: Metrics,
        order: Order = "first",
    ) -> None:
        self.group = Members(upstreams, metrics, order)
        self.in_flight = self.retrying = 0
        self._patience, self._client = patience, client
        self._retries = metrics.upstream_retries.labels(self.name)

    async def post(self, call: Call, ask: Ask) -> UpstreamReply:
        """A whole answer, or a 4xx. Raises `UpstreamError` where no attempt brought one."""
        reply = await self._run(call, ask, upstream.post)
        assert isinstance(reply, UpstreamReply)  # noqa: S101 for the type checker
        return reply

    async def open(self, call: Call, ask: Ask) -> UpstreamReply | Stream:
        """A stream whose first chunk is there, to be closed by the caller, or a 4xx. Raises as `post` does."""
        return await self._run(call, ask, upstream.open_stream)

    async def post_once(self, call: Call, ask: Ask) -> UpstreamReply | None:
        """Ask one of those that no breaker leaves alone, once, for what no client waits for. None: no answer."""
        members, key = self.group.trusted(), self.group.key(call)
        entered = self.group.pick(members, key, ())
        if entered is None:
            return None
        deadline = asyncio.get_running_loop().time() + self._patience.total_s
        course = _Course(call, ask, upstream.post, deadline, key, members)
        _, reply = await self._once(course, *entered)
        return reply if isinstance(reply, UpstreamReply) else None

    def serve_at(self, urls: tuple[str, ...], release: str | None = None, model: str | None = None) -> None:
        """Ask this release at these URLs from now on, as this model (None: the first's)."""
        self.group.serve_at(urls, release, model)

    async def _run(self, call: Call, ask: Ask, send: Send) -> UpstreamReply | Stream:
        self.in_flight += 1
        reply: UpstreamReply | Stream | UpstreamError | None = None
        try:
            member, reply = await self._attempt(self._course(call, ask, send))
            if isinstance(reply, UpstreamError):
                raise reply
            call.price = member.upstream.price
            if call.trace is not None:
                call.trace.answered(member.upstream, reply)
            if member.upstream.model != self.members[0].upstream.model:
                # the student is to learn from one teacher
                call.trainable = False
            if isinstance(reply, Stream):
                reply.on_close = partial(self._ended, member)
            return reply
        finally:
            if not isinstance(reply, Stream):
                self.in_flight -= 1

    def _course(self, call: Call, ask: Ask, send: Send) -> _Course:
        left = min(self._patience.total_s, self._patience.request_s - call.elapsed_ms() / 1000)
        if left <= 0:
            raise UpstreamError(self.name, WHY["deadline"], fault="deadline")
        return _Course(call, ask, send, asyncio.get_running_loop().time() + left, self.group.key(call), self.members)

    async def _attempt(self, course: _Course) -> _Outcome:
        entered = self._enter(course)
        if entered is None:
            raise self._all_open()
        outcome = await self._raced(course, *entered)
        while (pause := self._pause(course, outcome[1])) is not None:
            # taken before the pause: who waits is as good as under way
            self.retrying += 1
            try:
                if pause:
                    await asyncio.sleep(pause)
                entered = self._enter(course)
                if entered is None:
                    return outcome
                self._retries.inc()
                outcome = await self._once(course, *entered)
            finally:
                self.retrying -= 1
        return outcome

    def _enter(self, course: _Course) -> tuple[Member, int] | None:
        """The next upstream that lets a request in: one that was not tried, else the one tried longest ago."""
        tried = course.tried
        entered = self.group.pick(course.members, course.key, tried)
        if entered is None:
            now = time.monotonic()
            member = next((each for each in tried if each.breaker.is_ready(now)), None)
            ticket = member.breaker.enter(now) if member else None
            if member is None or ticket is None:
                return None
            tried.remove(member)
            entered = member, ticket
        member, ticket = entered
        tried.append(member)
        course.attempts += 1
        return member, ticket

    async def _once(self, course: _Course, member: Member, ticket: int) -> _Outcome:
        source, call, worked = member.upstream, course.call, None
        outcome: UpstreamReply | Stream | UpstreamError | None = None
        attempt = None if call.trace is None else call.trace.attempt(call, source)
        member.load.in_flight += 1
        try:
            headers = (call.forwarded if attempt is None else attempt.headers) | {"x-request-id": call.id}
            question = Question(call.endpoint.path, encode(course.ask(source)), headers, course.deadline)
            reply = await course.send(self._client, source, question)
        except UpstreamError as error:
            worked, outcome = error.fault in HARMLESS, error
            return member, error
        else:
            worked, outcome = True, reply
            return member, reply
        finally:
            if attempt is not None:
                attempt.came(outcome)
            if not isinstance(outcome, Stream):
                member.load.in_flight -= 1
            # cancelled: it says nothing
            self.group.left(member, ticket, worked)

    async def _raced(self, course: _Course, member: Member, ticket: int) -> _Outcome:
        """`_once`, with a second call beside it where the first byte of the first is late."""
        if not self._patience.hedge_after_s:
            return await self._once(course, member, ticket)
        tasks = [asyncio.create_task(self._once(course, member, ticket))]
        hedged, kept = False, None
        try:
            await asyncio.wait(tasks, timeout=self._patience.hedge_after_s)
            if not tasks[0].done() and self._may_retry() and (second := self._enter(course)) is not None:
                hedged = True
                self.retrying += 1
                self._retries.inc()
                tasks.append(asyncio.create_task(self._once(course, *second)))
            kept = await first_good(tasks, lambda outcome: is_good(outcome[1]))
            return kept.result()
        finally:
            self.retrying -= hedged
            await abandon([task for task in tasks if task is not kept], _drop)

    def _pause(self, course: _Course, reply: UpstreamReply | Stream | UpstreamError) -> float | None:
        """Seconds until the next attempt; None where this outcome stands."""
        if course.attempts > self._patience.retries or not is_retried(reply):
            return None
        now = time.monotonic()
        others = any(each not in course.tried and each.breaker.is_ready(now) for each in course.members)
        if not self._may_retry() and not (others and is_gone(reply)):
            return None
        if others:
            return 0.0
        pause = pause_before(reply, course.attempts, self._patience.max_retry_after_s)
        if pause is None or asyncio.get_running_loop().time() + pause >= course.deadline:
            return None
        return pause

    def _may_retry(self) -> bool:
        return self.retrying < max(MIN_RETRIES, self.in_flight // RETRY_SHARE)

    def _ended(self, member: Member, stream: Stream) -> None:
        self.in_flight -= 1
        member.load.in_flight -= 1
        if stream.broken:
            self.group.broke(member)

    def _all_open(self) -> UpstreamError:
        wait = self.group.opens_in()
        why = "failed too often to be asked now"
        return UpstreamError(self.name, why, str(max(1, -int(-wait // 1))), "open")

    @property
    def members(self) -> list[Member]:
        """The upstreams as they are now."""
        return self.group.all

    @property
    def name(self) -> str:
        """The side's: ``student`` or ``teacher``."""
        return self.members[0].upstream.name


async def _drop(outcome: _Outcome) -> None:
    member, reply = outcome
    if isinstance(reply, Stream):
        member.load.in_flight -= 1
        await reply.close()
