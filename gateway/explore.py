"""Asking the other side too, in the background, of a small share of the requests that the router decided on.

The teacher is asked beside a student that was trusted, and the student beside a teacher that was preferred, so that
every threshold can be judged by both answers. The share is spent where it teaches most (`router/exploration.py`), and
each probability is logged, so that agreement can be estimated without looking through the router's choices. A side
that is down is not asked, and none is asked again: nobody waits for it.
The answer becomes a record of its own (reason ``explore``): billed, shown to no client. Where the two can be compared
without a model, their label goes with it.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal, TypeAlias

from gateway.answer import Answer, signals
from gateway.attempts import Attempts
from gateway.bodies import explore_body
from gateway.call import Call, Pricing
from gateway.live import Live, LiveRelease
from gateway.recorder import Recorder
from gateway.wire import NotJson, decode_object
from ledger.labels import Label
from ledger.store import now_ms
from router.comparators import DEFERRED, Reply, choose, compare
from router.exploration import Exploration, interest
from router.policy import Decision, escalate
from router.settings import RouterSettings
from router.signals import SIGNAL_TOP
from router.thresholds import Thresholds

__all__ = ("Explorer", "Sides")

MAX_IN_FLIGHT: Final = 32
FINISH_S: Final = 5.0

Source: TypeAlias = Literal["explore", "shadow"]


@dataclass(frozen=True, slots=True)
class Sides:
    """Who is asked, and how. ``live`` says where the student is."""

    teacher: Attempts
    student: Attempts
    live: Live
    top_logprobs: int
    """Of the teacher's tokens."""


@dataclass
class Explorer:
    """Explores ``explore_share`` of the student's answers, and shadows ``shadow_share`` of the teacher's."""

    sides: Sides
    pricing: Pricing
    recorder: Recorder
    settings: RouterSettings
    _random: random.Random = field(default_factory=random.SystemRandom)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])

    @cached_property
    def _budgets(self) -> dict[Source, Exploration]:
        shares = self.settings.explore_share, self.settings.shadow_share
        return {"explore": Exploration(shares[0]), "shadow": Exploration(shares[1])}

    def consider(self, call: Call, answer: Answer) -> None:
        """Ask the other side too, or not. Never waits, never fails the request; a full queue is passed over."""
        source = _source(call)
        if source is None or not (call.keep_content and call.trainable):
            return
        release = self.sides.live.snapshot.release
        if release is not None and release.id != call.release_id:
            release = None  # promoted meanwhile: its thresholds are not those that decided
        p = self._budgets[source].probability(_interest(call, release.router.thresholds if release else None))
        if self._random.random() >= p or len(self._tasks) >= MAX_IN_FLIGHT:
            return
        if source == "explore":
            asking = self._explore(call, answer, p)
        elif release is not None and release.student_urls:
            asking = self._shadow(call, answer, release, p)
        else:
            return
        task = asyncio.create_task(asking)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait for what is under way, at shutdown, but not long: nobody waits for its answer."""
        tasks = set(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=FINISH_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _explore(self, call: Call, student: Answer, p: float) -> None:
        beside = _beside(call, "explore", "teacher", p)
        teacher = await self._ask(beside, self.sides.teacher, self.sides.top_logprobs)
        if teacher is not None:
            self._record(beside, teacher, (student, teacher), call)

    async def _shadow(self, call: Call, teacher: Answer, release: LiveRelease, p: float) -> None:
        beside = _beside(call, "shadow", "student", p)
        self.sides.student.serve_at(release.student_urls)
        student = await self._ask(beside, self.sides.student, SIGNAL_TOP)
        if student is None:
            return
        if call.decision.score is not None:
            # as it would have been read for the client: by the first tokens of a stream, or the whole answer
            whole, cut_off = not call.stream, student.finish_reason == "length"
            tokens = signals(student.logprobs, len(student.logprobs) if whole else self.settings.hold_tokens)
            _, beside.confidence = escalate(release.router, call.decision.score, tokens, whole, cut_off)
        self._record(beside, student, (student, teacher), call)

    async def _ask(self, beside: Call, side: Attempts, top_logprobs: int) -> Answer | None:
        """The side's whole answer; None where there is none."""
        reply = await side.post_once(beside, lambda source: explore_body(beside, source, top_logprobs))
        if reply is None or reply.status >= 400:
            return None
        answer = Answer()
        try:
            answer.read(decode_object(reply.body))
        except NotJson:
            return None
        return answer

    def _record(self, beside: Call, answer: Answer, both: tuple[Answer, Answer], call: Call) -> None:
        record = beside.record(answer, self.pricing, 200, None)
        # no client asked for this one: it costs, and the all-teacher baseline would not have paid for it
        record.baseline_nano = 0
        student, teacher = both
        if record.content is not None:
            record.content.answer, record.content.tool_calls = teacher.text, teacher.tool_calls
            record.content.student_answer, record.content.student_tool_calls = student.text, student.tool_calls
            record.content.student_finish_reason = student.finish_reason
        record.label = self._label(beside, both, call)
        self.recorder.record(record)

    def _label(self, beside: Call, both: tuple[Answer, Answer], call: Call) -> Label | None:
        """How the answers compare; None where that takes a model, or one of them was cut off."""
        student, teacher = (Reply.kept(each.text, each.tool_calls, each.finish_reason) for each in both)
        if student.finish_reason is None or teacher.finish_reason is None:
            return None
        comparator = choose(self.settings, call.tags, call.model, call.body | {"messages": call.messages}, teacher)
        if comparator in DEFERRED:
            return None
        return Label(
            request_id=call.id,
            source="explore" if beside.decision.route == "teacher" else "shadow",
            created_at=now_ms(),
            release_id=call.release_id,
            comparator=comparator,
            agreement=compare(comparator, student, teacher),
            propensity=beside.decision.propensity,
        )


def _source(call: Call) -> Source | None:
    """Which other side is worth asking. An attempt that was abandoned whole is there to be compared as it is."""
    if call.decision.score is None:
        return None  # a key's budget is spent, and not the router's choice
    if call.decision.reason in ("confident", "budget"):
        return "explore"
    is_cut = call.decision.reason == "low_confidence" and call.stream
    return "shadow" if is_cut or call.decision.reason == "hard" else None


def _interest(call: Call, thresholds: Thresholds | None) -> float:
    """By what decided: the score, or the confidence that was read."""
    decision = call.decision
    if thresholds is None:
        return interest(None, None, decision.novelty)
    if call.confidence is None:
        bar = thresholds.hard if decision.route == "teacher" else thresholds.sure
        return interest(decision.score, bar, decision.novelty)
    bar = thresholds.confident if call.stream else thresholds.confident_end
    return interest(call.confidence, bar, decision.novelty)


def _beside(call: Call, source: Source, route: Literal["student", "teacher"], p: float) -> Call:
    """The same request again, as a whole answer of another route, with nothing lost yet."""
    decision = Decision(route, "explore", call.decision.score, p, call.decision.novelty)
    return replace(
        call,
        id=f"{call.id}-{source}",
        decision=decision,
        stream=False,
        started=time.perf_counter(),
        first_token_ms=None,
        confidence=call.confidence if source == "explore" else None,
        attempt=None,
        lost=[],
        price=None,
    )
