"""Asking the teacher beside the student, in the background, for a small share of confident requests.

The share is the logged propensity, so that agreement can be estimated without looking through the router's choices. A
teacher that is down is not asked, and none is asked again: nobody waits for it.
The answer becomes a record of its own (reason ``explore``): billed, trainable, shown to no client.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.answer import Answer
from gateway.attempts import Attempts
from gateway.bodies import explore_body
from gateway.call import Call, Pricing
from gateway.recorder import Recorder
from gateway.wire import NotJson, decode_object
from router.policy import Decision

__all__ = ("Explorer",)

MAX_IN_FLIGHT: Final = 32
FINISH_S: Final = 5.0


@dataclass
class Explorer:
    """Explores ``share`` of the requests that the student answered with confidence."""

    teacher: Attempts
    pricing: Pricing
    recorder: Recorder
    share: float
    top_logprobs: int
    _random: random.Random = field(default_factory=random.SystemRandom)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])

    def consider(self, call: Call, student_answer: Answer) -> None:
        """Explore this request or not. Never waits, never fails the request; a full queue is passed over."""
        if call.decision.reason != "confident" or not (call.keep_content and call.trainable):
            return
        if self._random.random() >= self.share or len(self._tasks) >= MAX_IN_FLIGHT:
            return
        task = asyncio.create_task(self._explore(call, student_answer))
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

    async def _explore(self, call: Call, student_answer: Answer) -> None:
        explored = replace(
            call,
            id=f"{call.id}-explore",
            decision=Decision("teacher", "explore", call.decision.score, self.share),
            stream=False,
            started=time.perf_counter(),
            first_token_ms=None,
            lost=[],
            price=None,
        )
        reply = await self.teacher.post_once(call, lambda source: explore_body(call, source, self.top_logprobs))
        if reply is None or reply.status >= 400:
            return
        answer = Answer()
        try:
            answer.read(decode_object(reply.body))
        except NotJson:
            return
        record = explored.record(answer, self.pricing, reply.status, None)
        # no client asked for this one: it costs, and the all-teacher baseline would not have paid for it
        record.baseline_nano = 0
        if record.content is not None:
            record.content.student_answer = student_answer.text
        self.recorder.record(record)
