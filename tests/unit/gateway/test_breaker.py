"""The circuit breaker, against a model of it that remembers every request."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.breaker import CONSECUTIVE, MAX_OPEN_S, MIN_REQUESTS, OPEN_S, WINDOW_S, Breaker

NO_JITTER = lambda: 0.0  # noqa: E731 a number source
WELL, BAD = True, False


def tell(breaker: Breaker, ends: list[bool | None], now: float = 0.0) -> None:
    """So many requests, one after the other."""
    for worked in ends:
        ticket = breaker.enter(now)
        assert ticket is not None
        breaker.leave(ticket, worked, now)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(NO_JITTER)
    tell(breaker, [BAD] * CONSECUTIVE, now)
    assert breaker.state == "open"
    return breaker


def test_a_few_failures_in_a_row_open_it():
    breaker = Breaker(NO_JITTER)
    tell(breaker, [BAD] * (CONSECUTIVE - 1))
    assert breaker.state == "closed"
    tell(breaker, [BAD])
    assert breaker.state == "open"
    assert breaker.enter(OPEN_S - 0.01) is None


def test_half_of_enough_requests_open_it():
    breaker = Breaker(NO_JITTER)
    tell(breaker, [WELL, BAD] * (MIN_REQUESTS // 2 - 1))
    assert breaker.state == "closed"
    tell(breaker, [WELL])
    assert breaker.state == "closed"
    tell(breaker, [BAD])
    assert breaker.state == "open"


def test_less_than_half_never_open_it():
    breaker = Breaker(NO_JITTER)
    for second in range(100):
        tell(breaker, [WELL, WELL, BAD, BAD, WELL] * 3, float(second))
    assert breaker.state == "closed"


def test_what_is_older_than_the_window_does_not_count():
    breaker = Breaker(NO_JITTER)
    tell(breaker, [BAD, WELL, BAD, WELL, BAD, WELL, BAD, WELL], 0.0)
    tell(breaker, [WELL, BAD], WINDOW_S + 1.0)
    assert breaker.state == "closed"


def test_one_probe_is_let_through_and_its_success_closes_it():
    breaker = opened()
    probe = breaker.enter(OPEN_S)
    assert probe is not None
    assert breaker.enter(OPEN_S) is None
    assert breaker.leave(probe, WELL, OPEN_S + 1)
    assert breaker.state == "closed"
    tell(breaker, [BAD] * (CONSECUTIVE - 1), OPEN_S + 1)
    assert breaker.state == "closed"


def test_every_probe_that_fails_doubles_the_time_up_to_a_bound():
    breaker, now, times = opened(), 0.0, []
    for _ in range(6):
        times.append(breaker.opens_in(now))
        now += breaker.opens_in(now)
        probe = breaker.enter(now)
        assert probe is not None
        breaker.leave(probe, BAD, now)
    assert times == [OPEN_S, 10, 20, 40, MAX_OPEN_S, MAX_OPEN_S]


def test_a_probe_that_tells_nothing_makes_room_for_the_next():
    breaker = opened()
    probe = breaker.enter(OPEN_S)
    assert probe is not None
    assert not breaker.leave(probe, None, OPEN_S)
    assert breaker.enter(OPEN_S) is not None


@pytest.mark.parametrize("worked", [WELL, BAD])
def test_a_request_from_before_says_nothing_of_the_present(worked: bool):
    breaker = Breaker(NO_JITTER)
    old = breaker.enter(0.0)
    assert old is not None
    tell(breaker, [BAD] * CONSECUTIVE)
    assert not breaker.leave(old, worked, 1.0)
    assert (breaker.state, breaker.opens_in(1.0)) == ("open", OPEN_S - 1)
    probe = breaker.enter(OPEN_S)
    assert not breaker.leave(old, worked, OPEN_S)
    assert (breaker.state, breaker.enter(OPEN_S)) == ("half_open", None)
    assert probe is not None


def test_streams_that_break_after_they_began_open_it():
    breaker = Breaker(NO_JITTER)
    for _ in range(MIN_REQUESTS // 2):
        tell(breaker, [WELL])
        breaker.broke(0.0)
    assert breaker.state == "open"


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
def test_the_time_is_jittered_downwards_only(draw: float):
    breaker = Breaker(lambda: draw)
    tell(breaker, [BAD] * CONSECUTIVE)
    assert OPEN_S * 0.8 <= breaker.opens_in(0.0) <= OPEN_S


@dataclass
class Remembered:
    """All that happened since it was closed last."""

    ends: list[tuple[int, bool]] = field(default_factory=list)

    def opens(self, now: float) -> bool:
        row = [worked for _, worked in self.ends][-CONSECUTIVE:]
        recent = [worked for second, worked in self.ends if second > int(now) - WINDOW_S]
        many = len(recent) >= MIN_REQUESTS and 2 * recent.count(False) >= len(recent)
        return not self.ends[-1][1] and (many or (len(row) == CONSECUTIVE and not any(row)))


class AnyTraffic(RuleBasedStateMachine):
    """Requests that overlap, in any order, over any time."""

    @initialize(draw=st.floats(0, 0.99))
    def begin(self, draw: float) -> None:
        self.breaker = Breaker(lambda: draw)
        self.now, self.until = 0.0, 0.0
        self.remembered = Remembered()
        self.tickets: list[int] = []
        self.probe: int | None = None

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 4.0, 11.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_request_comes(self) -> None:
        before = self.breaker.state
        ready, ticket = self.breaker.is_ready(self.now), self.breaker.enter(self.now)
        assert ready == (ticket is not None)
        if before == "closed":
            assert ticket is not None
            self.tickets.append(ticket)
        else:
            assert ready == (self.now >= self.until and self.probe is None)
            self.probe = ticket if ready else self.probe

    @precondition(lambda self: self.tickets)
    @rule(worked=st.sampled_from([True, True, False, False, None]), which=st.integers(0, 10**6))
    def a_request_ends(self, worked: bool | None, which: int) -> None:
        ticket = self.tickets.pop(which % len(self.tickets))
        state, current = self.breaker.state, self.breaker._ticket
        changed = self.breaker.leave(ticket, worked, self.now)
        if state != "closed" or ticket != current or worked is None:
            assert not changed
            return
        self.remembered.ends.append((int(self.now), worked))
        assert changed == self.remembered.opens(self.now)
        if changed:
            self.was_opened()

    @precondition(lambda self: self.probe is not None)
    @rule(worked=st.sampled_from([True, False, None]))
    def the_probe_ends(self, worked: bool | None) -> None:
        probe, self.probe = self.probe, None
        assert self.breaker.leave(probe, worked, self.now) == (worked is not None)
        if worked:
            assert self.breaker.state == "closed"
            self.remembered = Remembered()
        elif worked is False:
            self.was_opened()

    def was_opened(self) -> None:
        assert self.breaker.state == "open"
        wait = self.breaker.opens_in(self.now)
        assert 0.8 * OPEN_S <= wait <= MAX_OPEN_S
        self.until = self.now + wait

    @invariant()
    def while_open_nothing_passes(self) -> None:
        if self.breaker.state == "open" and self.now < self.until:
            assert not self.breaker.is_ready(self.now)
            assert self.breaker.opens_in(self.now) == pytest.approx(self.until - self.now)


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
