"""Router, budgets and escalation at a scale that no machine here has, by simulation: no figure of it is measured.

Requests are drawn from a table of scores, confidences and agreement that were measured (`measured_rows`). Each
gateway is the real `Pacing` with the real `Pacer`, on a simulated clock; thresholds are the router's. What is made up
is when requests come (a Poisson process, evenly spread over the gateways) and what the store knows when: spend is in
it `LAG_S` after an answer, and each gateway reads it every `READ_S`, each at a time of its own.

    python -m bench.simulate rate      1,000, 10,000 and 100,000 requests a second for some seconds
    python -m bench.simulate day       a day's ceiling of spend, kept by 1, 4 and 16 gateways
    python -m bench.simulate outage    the students are gone for a while; the teacher takes so much and no more
"""

import argparse
import json
import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, cast

import numpy as np

from distill.estimate.proxy import answers_of, fit, likeness, right
from distill.estimate.reading import Sampled
from gateway.pacing import READ_S, Pacing
from router.calibration import Prices
from router.comparators import Reply
from router.features import RequestView
from router.pacing import Pacer
from router.policy import Decision
from router.signals import TokenLogprob
from router.thresholds import Thresholds
from router.train import LabelledRequest, train_with_evidence
from stillroom.demo.desk import Request, own_desk
from stillroom.demo.traffic import SYSTEM

LAG_S: Final = 1.0
"""From an answer to the store (`gateway/budgets.py`: another process's requests are seen within a second)."""
TICK_S: Final = 0.1
DAY_S: Final = 86_400.0
REQUEST_US: Final = {"teacher": 425.0, "student": 887.0}
"""CPU of a plain request on either route (docs/performance.md)."""
BUSY: Final = 0.6
"""Share of a core that a gateway is given to do."""
COSTS: Final = Prices(student=0.002, teacher=0.015)
"""Of a request, as in the demo (docs/results.md)."""


@dataclass(frozen=True, slots=True)
class Row:
    """A measured request: the router's score, the student's confidence, and whether its answer agreed."""

    score: float
    confidence: float
    agreed: bool


@dataclass(frozen=True, slots=True)
class World:
    """What is simulated. ``student_down`` is from when to when, ``teacher_limit`` its requests a second."""

    rows: Sequence[Row]
    thresholds: Thresholds
    rate: float
    seconds: float
    gateways: int = 1
    max_share: float | None = None
    max_spend: float | None = None
    begin: float = 0.0
    student_down: tuple[float, float] = (0.0, 0.0)
    teacher_limit: float = math.inf
    seed: int = 0


@dataclass(slots=True)
class Outcome:
    """What became of the requests, by route and reason; ``refused`` the teacher had no room for."""

    came: int = 0
    routes: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    refused: int = 0
    disagreed: int = 0
    tried: int = 0
    """Attempts of the student, with those that were abandoned."""
    spent: float = 0.0
    spent_out_at: float | None = None
    """Seconds after the beginning, where the ceiling was reached."""
    peak_teacher: int = 0
    """Most requests to the teacher in a second."""

    @property
    def answered(self) -> int:
        """By either side."""
        return sum(self.routes.values())

    @property
    def teacher_share(self) -> float:
        """Of what was answered."""
        return sum(count for (route, _), count in self.routes.items() if route == "teacher") / max(self.answered, 1)


class Clock:
    """Simulated seconds since the epoch."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now


class Gateway:
    """One process: the real pacing, and what of a call and a release it looks at."""

    def __init__(self, world: World, clock: Clock) -> None:
        pacer = Pacer(world.max_share, world.max_spend)
        # the store is asked by `run` alone, whose part `Simulation` plays
        self.settled = 0
        self.pacing = Pacing(cast("Any", None), lambda: self.settled, pacer, clock)
        self.thresholds = world.thresholds
        router = SimpleNamespace(thresholds=world.thresholds)
        self._up = SimpleNamespace(student_urls=("http://student",), router=router)
        self._down = SimpleNamespace(student_urls=(), router=router)

    def route(self, row: Row, up: bool) -> tuple[Any, bool]:
        """The call as the relay leaves it when the answer is known to come, and whether the student was tried."""
        bars, release = self.thresholds, self._up if up else self._down
        hard = not (bars.feasible and row.score >= bars.hard)
        first = Decision("teacher", "hard", row.score, 1.0) if hard else Decision(
            "student", "confident", row.score, 1.0, is_provisional=row.score < bars.sure
        )  # fmt: skip
        call = SimpleNamespace(decision=first, expected_cost=None, target="auto")
        self.pacing.decided(cast("Any", call), cast("Any", release))
        if call.decision.route == "student" and not up:
            call.decision = Decision("teacher", "student_down", row.score, 1.0)
            return call, False
        tried = call.decision.route == "student"
        doubtful = tried and call.decision.is_provisional and row.confidence < bars.confident_end
        if doubtful and not self.pacing.keeps(cast("Any", call), row.confidence):
            call.decision = Decision("teacher", "low_confidence", row.score, 1.0)
        return call, tried

    def settle(self, call: Any, cost: float) -> None:
        """The answer is there."""
        route = call.decision.route
        self.settled += 1
        self.pacing.recorded(call, cast("Any", SimpleNamespace(cost_nano=round(cost * 1e9), route=route)))


class Simulation:
    """Runs a world tick by tick."""

    def __init__(self, world: World) -> None:
        self.world, self.clock = world, Clock(world.begin)
        self.gateways = [Gateway(world, self.clock) for _ in range(world.gateways)]
        self.chance = np.random.default_rng(world.seed)
        self.outcome = Outcome()
        self._to_store: deque[tuple[float, float]] = deque()
        self._spent, self._requests = 0.0, 0
        self._second, self._to_teacher = 0, 0

    def run(self) -> Outcome:
        """All of it."""
        world = self.world
        reads = [READ_S * at / world.gateways for at in range(world.gateways)]
        tick = min(max(TICK_S, world.gateways / world.rate), READ_S / 4)
        for step in range(math.ceil(world.seconds / tick)):
            since = step * tick
            self.clock.now = world.begin + since
            self._read(reads, since)
            up = not world.student_down[0] <= since < world.student_down[1]
            for gateway, count in zip(self.gateways, self._arrivals(tick), strict=True):
                for at in self.chance.integers(len(world.rows), size=count).tolist():
                    self._request(gateway, world.rows[at], up, since)
        return self.outcome

    def _arrivals(self, tick: float) -> list[int]:
        return self.chance.poisson(self.world.rate * tick / self.world.gateways, self.world.gateways).tolist()

    def _read(self, reads: list[float], since: float) -> None:
        """What `Pacing.run` does every `READ_S`."""
        while self._to_store and self._to_store[0][0] <= since:
            self._spent += self._to_store.popleft()[1]
            self._requests += 1
        for at, gateway in enumerate(self.gateways):
            if since >= reads[at]:
                reads[at] += READ_S
                gateway.pacing.take_in(self._spent, self._requests)

    def _request(self, gateway: Gateway, row: Row, up: bool, since: float) -> None:
        seen = self.outcome
        seen.came += 1
        call, tried = gateway.route(row, up)
        seen.tried += tried
        if call.decision.route == "teacher" and not self._teacher_has_room(since):
            seen.refused += 1
            self._settle(gateway, call, 0.0, since)
            return
        cost = COSTS.teacher if call.decision.route == "teacher" else 0.0
        self._settle(gateway, call, cost, since)
        seen.routes[call.decision.route, call.decision.reason] += 1
        seen.disagreed += call.decision.route == "student" and not row.agreed
        if cost:
            seen.spent += cost
            if self.world.max_spend is not None and seen.spent_out_at is None:
                seen.spent_out_at = since if seen.spent + cost > self.world.max_spend else None

    def _settle(self, gateway: Gateway, call: Any, cost: float, since: float) -> None:
        gateway.settle(call, cost)
        self._to_store.append((since + LAG_S, cost))

    def _teacher_has_room(self, since: float) -> bool:
        if int(since) != self._second:
            self._second, self._to_teacher = int(since), 0
        if self._to_teacher >= self.world.teacher_limit:
            return False
        self._to_teacher += 1
        self.outcome.peak_teacher = max(self.outcome.peak_teacher, self._to_teacher)
        return True


def measured_rows() -> tuple[list[Row], Thresholds]:
    """Of our own desk: a student's scores, confidences and agreement out of sample, by the router's own training, and
    its thresholds for the demo's target. The student is the proxy of `distill.estimate`, taught by half of the desk.
    """
    desk = own_desk().train
    sample = [_sampled(at, request) for at, request in enumerate(desk)]
    half = len(sample) // 2
    learned, asked = np.arange(half), np.arange(half, len(sample))
    answers, alike = answers_of(sample), likeness(sample, learned)
    proxy = fit(alike[np.ix_(learned, learned)], answers.of[learned])
    given, ahead = proxy.answers(alike[np.ix_(asked, learned)])
    agreed = right(answers, given, sample, asked)
    labelled = [
        LabelledRequest(sample[row].view, (TokenLogprob(math.log(max(p, 1e-3)), ()),), bool(will))
        for row, p, will in zip(asked.tolist(), ahead.tolist(), agreed.tolist(), strict=True)
    ]
    model, evidence = train_with_evidence(labelled, 0.92, 0.05, COSTS)
    columns = (evidence.scores, evidence.whole, evidence.agreed)
    found = [Row(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
    return found, model.thresholds


def _sampled(at: int, request: Request) -> Sampled:
    view = RequestView((("user", request.text),))
    reply = Reply(request.label)
    return Sampled(at, at, view, SYSTEM, "label", "exact", reply, 0, 0, 0, at, False)


def gateways_for(rate: float, teacher_share: float) -> int:
    """So many processes at `BUSY` of a core each."""
    micros = teacher_share * REQUEST_US["teacher"] + (1 - teacher_share) * REQUEST_US["student"]
    return math.ceil(rate * micros / 1e6 / BUSY)


def told(name: str, world: World, seen: Outcome) -> None:
    """A line of JSON."""
    print(json.dumps({
        "what": name,
        "requests_per_second": world.rate,
        "gateways": world.gateways,
        "came": seen.came,
        "refused": seen.refused,
        "teacher_share": round(seen.teacher_share, 4),
        "routes": {" ".join(route): round(count / seen.came, 4) for route, count in sorted(seen.routes.items())},
        "agreement": round(1 - seen.disagreed / max(seen.answered, 1), 4),
        "student_per_second": round(seen.tried / world.seconds, 1),
        "peak_teacher_per_second": seen.peak_teacher,
        "spent_of_ceiling": None if world.max_spend is None else round(seen.spent / world.max_spend, 4),
        "spent_out_after_hours": None if seen.spent_out_at is None else round(seen.spent_out_at / 3600, 2),
    }), flush=True)  # fmt: skip


def rates(rows: Sequence[Row], thresholds: Thresholds, seconds: float) -> None:
    """Without a ceiling, and with half of the share that the teacher then has."""
    free = Simulation(World(rows, thresholds, 1_000, seconds)).run().teacher_share
    for rate in (1_000, 10_000, 100_000):
        for ceiling in (None, free / 2):
            world = World(rows, thresholds, rate, seconds, gateways_for(rate, free), max_share=ceiling)
            told("rate" if ceiling is None else f"rate, ceiling {ceiling:.3f}", world, Simulation(world).run())


def days(rows: Sequence[Row], thresholds: Thresholds) -> None:
    """A request a second for a day, with half of the money that the teacher would cost."""
    free = Simulation(World(rows, thresholds, 1, 3_600)).run().spent * 24
    for gateways in (1, 4, 16):
        world = World(rows, thresholds, 1, DAY_S, gateways, max_spend=free / 2)
        told("day", world, Simulation(world).run())


def outages(rows: Sequence[Row], thresholds: Thresholds) -> None:
    """A minute at 1,000 a second, of which the students are gone for twenty seconds."""
    usual = Simulation(World(rows, thresholds, 1_000, 20)).run().teacher_share * 1_000
    for room in (math.inf, 2 * usual):
        world = World(rows, thresholds, 1_000, 60, 2, student_down=(20, 40), teacher_limit=room)
        told(f"outage, the teacher takes {room:.0f} a second", world, Simulation(world).run())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rate", "day", "outage", "all"))
    parser.add_argument("--seconds", type=float, default=5.0, help="simulated, of `rate`")
    asked = parser.parse_args()
    rows, thresholds = measured_rows()
    if asked.what in ("rate", "all"):
        rates(rows, thresholds, asked.seconds)
    if asked.what in ("day", "all"):
        days(rows, thresholds)
    if asked.what in ("outage", "all"):
        outages(rows, thresholds)


if __name__ == "__main__":
    main()
