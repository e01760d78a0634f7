"""The simulation of many gateways: nothing is lost in it, and its ceilings are those of the real code."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulate import COSTS, DAY_S, Row, Simulation, World, gateways_for
from router.pacing import BANK, STEP
from router.thresholds import Thresholds

BARS = Thresholds(0.4, 0.5, 0.9, 0.05, 500, 0.7, 0.9, feasible=True, sure=0.9, confident_end=0.5)


def rows(count: int = 400, seed: int = 0) -> list[Row]:
    """Requests whose agreement follows their score and confidence."""
    chance = np.random.default_rng(seed)
    scores = chance.beta(3, 1.2, count)
    confidences = np.clip(scores + chance.normal(0, 0.15, count), 0, 1)
    return [
        Row(*each)
        for each in zip(scores.tolist(), confidences.tolist(), (chance.random(count) < scores).tolist(), strict=True)
    ]


WORLD = World(rows(), BARS, rate=200, seconds=20)


def by_rule(bars: Thresholds) -> float:
    """The teacher's share where nothing binds, by the thresholds alone."""
    goes = [
        row.score < bars.hard or (row.score < bars.sure and row.confidence < bars.confident_end) for row in rows()
    ]
    return sum(goes) / len(goes)


@settings(deadline=None, max_examples=25)
@given(
    rate=st.floats(1, 300),
    gateways=st.integers(1, 6),
    max_share=st.none() | st.floats(0, 1),
    max_spend=st.none() | st.floats(0, 2),
    down=st.tuples(st.floats(0, 5), st.floats(0, 5)),
    limit=st.just(math.inf) | st.floats(0, 50),
)
def test_every_request_is_answered_once_or_refused(rate, gateways, max_share, max_spend, down, limit):
    world = World(rows(), BARS, rate, 5, gateways, max_share, max_spend, student_down=down, teacher_limit=limit)
    seen = Simulation(world).run()
    assert seen.came == seen.answered + seen.refused
    by_student = sum(count for (route, _), count in seen.routes.items() if route == "student")
    escalated = seen.routes["teacher", "low_confidence"]
    assert by_student <= seen.tried <= by_student + escalated + seen.refused
    assert seen.spent == pytest.approx((seen.answered - by_student) * COSTS.teacher)
    assert seen.peak_teacher <= limit + 1
    assert seen.disagreed <= by_student


def test_without_ceilings_the_shares_are_those_of_the_thresholds():
    seen = Simulation(WORLD).run()
    assert seen.came == pytest.approx(4_000, rel=0.1)
    assert seen.teacher_share == pytest.approx(by_rule(BARS), abs=0.03)
    assert {reason for _, reason in seen.routes} == {"confident", "hard", "low_confidence"}


@pytest.mark.parametrize("gateways", [1, 4])
def test_a_share_is_kept_by_each_gateway_but_for_its_reserve(gateways):
    ceiling = by_rule(BARS) / 2
    seen = Simulation(replace(WORLD, seconds=120, gateways=gateways, max_share=ceiling)).run()
    reserve = gateways * (BANK + 1 / STEP + 1)
    assert seen.teacher_share * seen.answered <= ceiling * seen.came + reserve
    assert seen.routes["student", "budget"] > 0


def test_one_gateway_spends_no_more_than_its_ceiling():
    ceiling = 200 * COSTS.teacher
    seen = Simulation(replace(WORLD, max_spend=ceiling)).run()
    assert 0 < seen.spent <= ceiling + 1e-9


def test_several_gateways_overrun_a_spend_by_what_they_have_not_heard_of_each_other():
    ceiling, world = 200 * COSTS.teacher, replace(WORLD, gateways=4)
    seen = Simulation(replace(world, max_spend=ceiling)).run()
    # each keeps the ceiling by itself, whatever it hears
    assert ceiling * 0.5 < seen.spent <= 4 * ceiling


@pytest.mark.parametrize("gateways", [1, 4, 16])
def test_the_money_of_a_day_lasts_until_its_end_however_many_gateways_spend_it(gateways):
    world = replace(WORLD, rate=40, seconds=1_200, gateways=gateways, begin=DAY_S - 1_200)
    free = world.rate * world.seconds * by_rule(BARS) * COSTS.teacher
    seen = Simulation(replace(world, max_spend=free / 2)).run()
    assert seen.spent == pytest.approx(free / 2, rel=0.03)
    assert seen.spent_out_at is None or seen.spent_out_at > 0.95 * world.seconds


def test_while_the_students_are_gone_the_teacher_is_asked_and_refuses_past_its_limit():
    free = Simulation(replace(WORLD, student_down=(5, 10))).run()
    assert free.routes["teacher", "student_down"] > 0
    assert free.peak_teacher > 150
    bound = Simulation(replace(WORLD, student_down=(5, 10), teacher_limit=100)).run()
    assert bound.refused > 0
    assert bound.peak_teacher <= 101


def test_thresholds_that_were_not_proved_leave_everything_to_the_teacher():
    seen = Simulation(replace(WORLD, thresholds=replace(BARS, feasible=False), max_share=0.1)).run()
    assert seen.routes.keys() == {("teacher", "hard")}


def test_the_same_world_runs_the_same_twice():
    assert Simulation(WORLD).run() == Simulation(WORLD).run()


def test_more_requests_take_more_gateways():
    assert gateways_for(1_000, 0.2) == 2
    assert gateways_for(100_000, 0.2) == 133
