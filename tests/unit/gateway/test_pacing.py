"""What each of several gateways takes of a day's even pace: the part that it has of the traffic."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from gateway.pacing import Pacing


@dataclass
class Process:
    """A gateway that reads the store when it is told to, which it never asks itself."""

    recorded: int = 0
    pacing: Pacing = field(init=False)

    def __post_init__(self) -> None:
        self.pacing = Pacing(cast("Any", None), lambda: self.recorded)

    def part_after(self, own: int, everywhere: int, readings: int, already: int = 0) -> float:
        for reading in range(readings):
            self.pacing.take_in(0.0, already + everywhere * reading)
            self.recorded += own
        return self.pacing.pacer.part


@pytest.mark.parametrize(("own", "everywhere", "part"), [(40, 40, 1.0), (10, 40, 0.25), (0, 40, 0.0), (0, 0, 1.0)])
def test_its_part_is_what_it_has_of_the_traffic(own, everywhere, part):
    assert Process().part_after(own, everywhere, 10) == pytest.approx(part)


def test_what_others_recorded_before_it_began_is_not_traffic_that_it_lacks():
    assert Process().part_after(40, 40, 10, already=1_000_000) == 1.0


def test_it_never_takes_more_than_all_though_the_store_lags_behind():
    assert Process().part_after(50, 40, 10) == 1.0


def test_its_part_follows_the_traffic_and_a_new_day_changes_nothing():
    process = Process()
    process.part_after(10, 40, 50)
    assert process.part_after(10, 40, 2) == pytest.approx(0.25)
    assert process.part_after(30, 40, 200) == pytest.approx(0.75, abs=0.01)
