"""The pacer over traffic of all kinds: its ceilings hold, bind only where they must, and refuse the least of it."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.pacing import BANK, STEP, Pacer

DAY = 86_400.0


@dataclass
class Outcome:
    came: int = 0
    wanted: int = 0
    allowed: int = 0
    gained: float = 0.0
    wished: float = 0.0
    highest_price: float = 0.0

    @property
    def share(self) -> float:
        return self.allowed / self.came


def served(pacer: Pacer, demand: Callable[[int], float], requests: int, seed: int) -> Outcome:
    """Requests of which ``demand`` ask for the teacher, each with a gain spread evenly over 0 to 1."""
    chance, seen = random.Random(seed), Outcome()
    for i in range(requests):
        pacer.came()
        seen.came += 1
        seen.highest_price = max(seen.highest_price, pacer.share_price)
        if chance.random() < demand(i):
            p = chance.random()
            seen.wanted += 1
            seen.wished += 1 - p
            if pacer.allows(p, 1.0, float(i)):
                seen.allowed += 1
                seen.gained += 1 - p
    return seen


TRAFFIC: dict[str, Callable[[int], float]] = {
    "stationary": lambda i: 0.4,
    "day and night": lambda i: 0.45 + 0.2 * math.sin(2 * math.pi * i / 5_000),
    "suddenly three times as hard": lambda i: 0.9 if 8_000 <= i < 14_000 else 0.3,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("demand", TRAFFIC.values(), ids=TRAFFIC.keys())
def test_the_share_is_at_its_ceiling_where_more_is_asked_for(demand, seed):
    ceiling = 0.2
    assert abs(served(Pacer(max_share=ceiling), demand, 20_000, seed).share - ceiling) <= 0.02


def test_the_share_is_at_its_ceiling_within_the_hard_hours_too():
    pacer = Pacer(max_share=0.2)
    served(pacer, lambda i: 0.3, 5_000, 0)
    hard = served(pacer, lambda i: 0.9, 5_000, 1)
    assert abs(hard.share - 0.2) <= 0.02
    # and what was refused then is not owed to anybody later
    after = served(pacer, lambda i: 0.3, 5_000, 2)
    assert abs(after.share - 0.2) <= 0.02


@pytest.mark.parametrize("demand", [0.05, 0.15, 0.18], ids=str)
def test_a_ceiling_above_the_demand_never_binds(demand):
    seen = served(Pacer(max_share=0.2), lambda i: demand, 20_000, 0)
    assert (seen.allowed, seen.highest_price) == (seen.wanted, 0.0)


def test_no_ceiling_refuses_nothing_and_the_share_is_shown_all_the_same():
    pacer = Pacer()
    seen = served(pacer, lambda i: 0.9, 5_000, 0)
    assert seen.allowed == seen.wanted
    assert pacer.teacher_share == pytest.approx(0.9, abs=0.05)
    assert (pacer.share_price, pacer.spend_price) == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_those_that_are_refused_gain_least(seed):
    """At the same share, refusing by chance would keep a part of the gain as large as the part that is allowed."""
    seen = served(Pacer(max_share=0.2), lambda i: 0.5, 20_000, seed)
    kept, by_chance = seen.gained / seen.wished, seen.allowed / seen.wanted
    best = 1 - (1 - by_chance) ** 2  # of the greatest gains of an even spread
    assert by_chance < 0.45
    assert kept > by_chance + 0.8 * (best - by_chance)


@given(
    ceiling=st.floats(0.0, 1.0),
    asks=st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0)), max_size=400),
    times=st.integers(1, 5),
)
def test_no_run_of_requests_sends_more_than_the_bound_to_the_teacher(ceiling, asks, times):
    pacer, sent = Pacer(max_share=ceiling), []
    for does_ask, p in asks * times:
        pacer.came()
        sent.append(does_ask and pacer.allows(p, 0.0, 0.0))
    debt, worst = 0.0, 0.0
    for one in sent:
        debt = max(debt + one - ceiling, 0.0)
        worst = max(worst, debt)
    assert worst <= BANK + 1 / STEP + 1 + 1e-6


def test_requests_that_only_the_teacher_can_answer_count_though_they_are_not_refused():
    pacer, chance, allowed, forced = Pacer(max_share=0.3), random.Random(0), 0, 0
    for _ in range(10_000):
        pacer.came()
        if chance.random() < 0.2:
            pacer.spent(0.0, 0.0)
            forced += 1
        elif chance.random() < 0.5:
            allowed += pacer.allows(chance.random(), 0.0, 0.0)
    assert (allowed + forced) / 10_000 == pytest.approx(0.3, abs=0.02)
    assert forced == pytest.approx(2_000, abs=150)


def test_what_clients_pin_to_the_teacher_costs_and_is_not_in_the_share():
    pacer = Pacer(max_share=0.5, max_spend_per_day=10.0)
    pacer.came()
    pacer.spent(4.0, 100.0, is_ours=False)
    assert (pacer.teacher_share, pacer.spent_today) == (0.0, 4.0)


# the money of a day


def arrivals(requests: int, rate: Callable[[float], float], seed: int) -> Iterator[float]:
    chance = random.Random(seed)
    times = (chance.random() for _ in iter(int, 1))
    yield from sorted(next(x for x in times if chance.random() < rate(x)) * DAY for _ in range(requests))


def day(pacer: Pacer, rate: Callable[[float], float], seed: int, start: float = 0.0) -> tuple[float, float, float]:
    """Spent, asked for, and when the last was allowed; half of 20,000 requests ask, each at a cost of its own."""
    chance, spent, asked, last = random.Random(seed), 0.0, 0.0, 0.0
    for at in arrivals(20_000, rate, seed):
        pacer.came()
        if chance.random() < 0.5:
            cost = 0.1 + 0.9 * chance.expovariate(1.0)
            asked += cost
            expected = pacer.typical_cost or 1.0
            if pacer.allows(chance.random(), expected, start + at):
                pacer.settle(expected, cost)
                spent, last = spent + cost, at
    return spent, asked, last


RATES: dict[str, Callable[[float], float]] = {
    "stationary": lambda x: 1.0,
    "day and night": lambda x: 0.1 + 0.9 * max(0.0, math.sin(2 * math.pi * (x - 0.25))),
    "an hour of three times the traffic": lambda x: 1.0 if 0.5 < x < 0.54 else 0.33,
}


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES.keys())
def test_the_days_money_is_spent_by_its_end_and_not_before(rate):
    ceiling = 2_000.0
    spent, asked, last = day(Pacer(max_spend_per_day=ceiling), rate, 3)
    assert asked > 4 * ceiling
    assert spent == pytest.approx(ceiling, rel=0.02)
    assert last > 0.99 * DAY, "it was all spent early"


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES.keys())
def test_enough_money_for_the_day_refuses_nothing_of_it(rate):
    spent, asked, _ = day(Pacer(max_spend_per_day=40_000.0), rate, 4)
    assert spent == asked


def test_a_new_day_has_new_money():
    pacer = Pacer(max_spend_per_day=2_000.0)
    first, second = (day(pacer, RATES["stationary"], seed, start)[0] for seed, start in ((5, 0.0), (6, DAY)))
    assert (first, second) == (pytest.approx(2_000, rel=0.02), pytest.approx(2_000, rel=0.02))


@given(
    ceiling=st.floats(0.0, 50.0),
    asks=st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.001, 10.0), st.floats(0.0, DAY - 1)), max_size=80),
)
def test_the_days_money_is_not_overrun_where_costs_are_as_expected(ceiling, asks):
    pacer, spent = Pacer(max_spend_per_day=ceiling), 0.0
    for p, cost, at in sorted(asks, key=lambda ask: ask[2]):
        pacer.came()
        if pacer.allows(p, cost, at):
            # all under way at once: none is settled
            spent += cost
    assert spent <= ceiling + 1e-9


def test_an_answer_dearer_than_expected_overruns_the_day_by_its_own_excess_at_most():
    pacer = Pacer(max_spend_per_day=10.0)
    allowed = 0
    for i in range(100):
        if pacer.allows(0.0, 1.0, 86_000.0 + i):
            allowed += 1
            pacer.settle(1.0, 3.0)
    assert allowed == 4
    assert pacer.spent_today - 10.0 <= 3.0


def test_a_restart_takes_in_what_the_day_has_spent():
    pacer = Pacer(max_spend_per_day=10.0)
    pacer.begin(9.5, 50_000.0)
    assert not pacer.allows(0.0, 1.0, 50_001.0)
    assert pacer.allows(0.0, 0.4, 50_002.0)


def test_the_ledger_read_again_adds_what_other_processes_spend_and_takes_nothing_away():
    pacer = Pacer(max_spend_per_day=10.0)
    assert pacer.allows(0.0, 2.0, 50_000.0)
    pacer.begin(0.0, 50_001.0)
    assert pacer.spent_today == 2.0
    pacer.begin(6.0, 50_002.0)
    assert pacer.spent_today == 6.0


def test_an_answer_that_failed_costs_nothing_once_it_is_known():
    pacer = Pacer(max_spend_per_day=10.0)
    assert pacer.allows(0.0, 8.0, 50_000.0)
    pacer.settle(8.0, 0.0)
    assert pacer.spent_today == 0.0
    assert pacer.allows(0.0, 8.0, 50_001.0)
