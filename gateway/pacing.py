"""Holds the teacher to its ceilings at the turns of the relay, and counts what it was asked for."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.call import Call
from gateway.live_release import LiveRelease
from ledger.records import NANO, RequestRecord
from ledger.requests import usage_by
from ledger.store import Store
from router.pacing import Pacer

__all__ = ("Pacing",)

READ_S: Final = 5.0
DAY_S: Final = 86_400
NEW: Final = 0.05
"""Of the averages by which this process's part of the traffic is known, that the last reading makes up."""

log = structlog.get_logger(__name__)


@dataclass
class Pacing:
    """The ceilings of this process. ``store`` knows what others spent, ``recorded_here`` how many requests were
    recorded here since the process began, ``clock`` says seconds since the epoch.
    """

    store: Store
    recorded_here: Callable[[], int]
    pacer: Pacer = field(default_factory=Pacer)
    clock: Callable[[], float] = time.time
    _last: tuple[int, int] | None = None
    _here: float = 0.0
    _everywhere: float = 0.0

    def decided(self, call: Call, release: LiveRelease | None) -> None:
        """The router chose: keep a request from the teacher that the ceiling has no room for, if a student is there.

        A release whose quality was not proved answers nothing, whatever the teacher costs.
        """
        self.pacer.came()
        score = call.decision.score
        if call.decision.reason != "hard" or score is None or release is None:
            return
        ready = bool(release.student_urls) and release.router.thresholds.feasible
        if ready and not self._allows(call, score):
            call.decision = replace(call.decision, route="student", reason="budget")

    def keeps(self, call: Call, confidence: float) -> bool:
        """Whether the student's doubtful answer stands, since the ceiling has no room for the teacher's."""
        if self._allows(call, confidence):
            return False
        call.decision = replace(call.decision, reason="budget", is_provisional=False)
        return True

    def recorded(self, call: Call, record: RequestRecord) -> None:
        """A request is over, and what the teacher cost is known."""
        cost = record.cost_nano / NANO if record.route == "teacher" else 0.0
        expected, call.expected_cost = call.expected_cost, None
        if expected is None:
            if record.route != "teacher":
                return
            self.pacer.spent(cost, self.clock(), is_ours=call.target == "auto")
            expected = cost
        self.pacer.settle(expected, cost)

    def _allows(self, call: Call, p: float) -> bool:
        cost = self.pacer.typical_cost
        if not self.pacer.allows(p, cost, self.clock()):
            return False
        call.expected_cost = cost
        return True

    async def run(self) -> None:
        """Take in what all processes did today, until cancelled."""
        while True:
            if self.pacer.max_spend_per_day is not None:
                try:
                    self.take_in(*await asyncio.to_thread(self._today))
                except (SQLAlchemyError, OSError) as error:
                    log.warning("spending_unread", error=str(error).splitlines()[0])
            await asyncio.sleep(READ_S)

    def take_in(self, spent: float, requests: int) -> None:
        """What all processes together spent and recorded today, as the store knows it.

        Of the day's even pace each process keeps the part that it has of the traffic.
        """
        now, before = (self.recorded_here(), requests), self._last
        self._last = now
        # of a day that ended, the store no longer says how it went on
        if before is not None and requests >= before[1]:
            self._here += NEW * (now[0] - before[0] - self._here)
            self._everywhere += NEW * (now[1] - before[1] - self._everywhere)
        self.pacer.part = min(1.0, self._here / self._everywhere) if self._everywhere else 1.0
        self.pacer.begin(spent, self.clock())

    def _today(self) -> tuple[float, int]:
        day_began = int(self.clock()) // DAY_S * DAY_S
        usage = usage_by(self.store, ["route"], day_began * 1000)
        cost = sum(of.cost_nano for (route,), of in usage.items() if route == "teacher")
        return cost / NANO, sum(of.requests for of in usage.values())
