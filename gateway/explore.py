"""Asking the other side too, in the background, of a small share of the requests that the router decided on.

The teacher is asked beside a student that was trusted, and the student beside a teacher that was preferred, so that
every threshold can be judged by both answers. The share is spent where it teaches most (`router/exploration.py`), and
each probability is logged, so that agreement can be estimated without looking through the router's choices. A side
that is down is not asked, and none is asked again: nobody waits for it. A release on trial as a shadow is asked in
the same way, of its share of the conversations, whatever its router says.
The answer becomes a record of its own (reason ``explore``): billed, shown to no client. Where the two can be compared
without a model, their label goes with it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Final, Literal, TypeAlias

from gateway.answer import Answer
from gateway.attempts import Attempts
from gateway.bodies import explore_body
from gateway.call import Call, Pricing
from gateway.live import Live
from gateway.live_release import LiveRelease
from gateway.recorder import Recorder
from gateway.tokens import signals
from gateway.wire import NotJson, decode_object
from ledger.canary_rows import NOT_KEPT
from ledger.labels import Label
from ledger.records import RequestRecord
from ledger.store import now_ms
from router.comparators import DEFERRED, Reply, choose, compare
from router.exploration import Exploration, interest
from router.policy import Capabilities, Decision, decide, escalate
from router.settings import RouterSettings
from router.signals import SIGNAL_TOP
from router.thresholds import Thresholds

__all__ = ("Explorer", "Sides")

MAX_IN_FLIGHT: Final = 32
FINISH_S: Final = 5.0
BAD_GATEWAY: Final = 502

Source: TypeAlias = Literal["explore", "shadow"]
Teacher: TypeAlias = Coroutine[Any, Any, Answer | None]


@dataclass(frozen=True, slots=True)
class Sides:
    """Who is asked, and how. ``live`` says where the student is."""

    teacher: Attempts
    student: Attempts
    tried: Attempts
    """The student of a release that is on trial."""
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
    capabilities: Capabilities
    _random: random.Random = field(default_factory=random.SystemRandom)
    _tasks: set["asyncio.Task[Any]"] = field(default_factory=set["asyncio.Task[Any]"])

    @cached_property
    def _budgets(self) -> dict[Source, Exploration]:
        shares = self.settings.explore_share, self.settings.shadow_share
        return {"explore": Exploration(shares[0]), "shadow": Exploration(shares[1])}

    def consider(self, call: Call, answer: Answer) -> None:
        """Ask the other side too, or not. Never waits, never fails the request; a full queue is passed over."""
        if call.decision.score is None or not (call.keep_content and call.trainable):
            return  # a key's budget is spent, and not the router's choice; or nobody may learn from it
        snapshot, source = self.sides.live.snapshot, _source(call)
        # None where it was promoted over meanwhile: its thresholds are not those that decided
        release = snapshot.release_of(call.release_id)
        trial = snapshot.trial if snapshot.trial is not None and snapshot.trial.takes(call) else None
        p = self._probability(call, source, release, trial is not None) if source else 0.0
        if len(self._tasks) >= MAX_IN_FLIGHT:
            return
        drawn = self._random.random() < p
        teacher = partial(self._explore, call, answer, p) if source == "explore" and drawn else None
        if trial is not None and trial.mode == "shadow":
            self._begin(self._try(call, answer, trial.release, p, teacher))
        elif teacher is not None:
            self._begin(teacher())
        if source == "shadow" and drawn and release is not None and release.student_urls:
            self._begin(self._shadow(call, answer, release, p))

    def _probability(self, call: Call, source: Source, release: LiveRelease | None, on_trial: bool) -> float:
        if on_trial and source == "explore":
            return self.settings.canary_explore_share
        return self._budgets[source].probability(_interest(call, release.router.thresholds if release else None))

    def _begin(self, asking: Coroutine[Any, Any, Any]) -> None:
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

    async def _explore(self, call: Call, student: Answer, p: float) -> Answer | None:
        """The teacher's answer, recorded beside the student's."""
        beside = _beside(call, "explore", "teacher", p)
        _, teacher = await self._ask(beside, self.sides.teacher, self.sides.top_logprobs)
        if teacher is not None:
            record = self._record(beside, teacher, (student, teacher))
            record.label = self._label("explore", call, p, (student, teacher))
            self.recorder.record(record)
        return teacher

    async def _shadow(self, call: Call, teacher: Answer, release: LiveRelease, p: float) -> None:
        beside = _beside(call, "shadow", "student", p)
        _, student = await self._ask_student(beside, release)
        if student is None:
            return
        if call.decision.score is not None:
            _, beside.confidence = self._read(call, student, release, call.decision.score)
        record = self._record(beside, student, (student, teacher))
        record.label = self._label("shadow", call, p, (student, teacher))
        self.recorder.record(record)

    async def _try(
        self, call: Call, shown: Answer, release: LiveRelease, p: float, teacher_of: Callable[[], Teacher] | None
    ) -> None:
        """What a release on trial would have answered, and whether it would have asked the teacher instead.

        It is compared with the teacher's answer: the one that was shown, or one that was asked for with probability
        ``p``; with the champion's student's where there is no teacher's.
        """
        is_teachers = call.decision.route == "teacher"
        teacher = shown if is_teachers else await teacher_of() if teacher_of else None
        decided = decide(call.view, release.router, self.capabilities)
        beside = _beside(call, "canary", "student", 1.0 if is_teachers or teacher is None else p)
        beside.release_id = release.id
        beside.decision = replace(beside.decision, score=decided.score, novelty=decided.novelty)
        status, student = await self._ask_student(beside, release)
        if student is None:
            self.recorder.record(self._record(beside, Answer(), (Answer(), shown), status))
            return
        kept = decided.route == "student"
        if kept and decided.is_provisional and decided.score is not None:
            doubtful, beside.confidence = self._read(call, student, release, decided.score)
            kept = not doubtful
        record = self._record(beside, student, (student, teacher or shown))
        if teacher is None or not kept:
            record.content = None  # nothing of it is left to be compared with the teacher's
        if kept:
            both = student, teacher or shown
            record.label = self._label("shown" if teacher is None else "canary", beside, record.propensity, both)
        else:
            record.error_code = NOT_KEPT
        self.recorder.record(record)

    def _read(self, call: Call, student: Answer, release: LiveRelease, score: float) -> tuple[bool, float]:
        """As it would have been read for the client: by the first tokens of a stream, or the whole answer."""
        whole, cut_off = not call.stream, student.finish_reason == "length"
        tokens = signals(student.logprobs, len(student.logprobs) if whole else self.settings.hold_tokens)
        return escalate(release.router, score, tokens, whole, cut_off)

    async def _ask_student(self, beside: Call, release: LiveRelease) -> tuple[int, Answer | None]:
        side = self.sides.tried if release.on_trial else self.sides.student
        side.serve_at(release.student_urls, release.id, release.student_model)
        return await self._ask(beside, side, SIGNAL_TOP)

    async def _ask(self, beside: Call, side: Attempts, top_logprobs: int) -> tuple[int, Answer | None]:
        """The side's whole answer; a status and None where there is none."""
        reply = await side.post_once(beside, lambda source: explore_body(beside, source, top_logprobs))
        if reply is None or reply.status >= 400:
            return (reply.status if reply else BAD_GATEWAY), None
        answer = Answer()
        try:
            answer.read(decode_object(reply.body))
        except NotJson:
            return BAD_GATEWAY, None
        return reply.status, answer

    def _record(self, beside: Call, answer: Answer, both: tuple[Answer, Answer], status: int = 200) -> RequestRecord:
        record = beside.record(answer, self.pricing, status, None if status < 400 else "upstream_error")
        # no client asked for this one: it costs, and the all-teacher baseline would not have paid for it
        record.baseline_nano = 0
        student, teacher = both
        if record.content is not None:
            record.content.answer, record.content.tool_calls = teacher.text, teacher.tool_calls
            record.content.student_answer, record.content.student_tool_calls = student.text, student.tool_calls
            record.content.student_finish_reason = student.finish_reason
        return record

    def _label(self, source: str, of: Call, propensity: float, both: tuple[Answer, Answer]) -> Label | None:
        """How the answers compare; None where that takes a model, or one of them was cut off."""
        student, teacher = (Reply.kept(each.text, each.tool_calls, each.finish_reason) for each in both)
        if student.finish_reason is None or teacher.finish_reason is None:
            return None
        comparator = choose(self.settings, of.tags, of.model, of.body | {"messages": of.messages}, teacher)
        if comparator in DEFERRED:
            return None
        return Label(
            request_id=of.id,
            source=source,
            created_at=now_ms(),
            release_id=of.release_id,
            comparator=comparator,
            agreement=compare(comparator, student, teacher),
            propensity=propensity,
        )


def _source(call: Call) -> Source | None:
    """Which other side is worth asking. An attempt that was abandoned whole is there to be compared as it is."""
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


def _beside(call: Call, source: Source | Literal["canary"], route: Literal["student", "teacher"], p: float) -> Call:
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
