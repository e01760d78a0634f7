"""A release takes over while clients ask, on real engines: none fails, each is answered by the release it names."""

from pathlib import Path

import httpx
import pytest

from tests.engine_fixtures import READY_SECONDS
from tests.gateway_fixtures import wait_until
from tests.swap_world import Asked, SwapWorld, answered_by, swap_world

pytestmark = [pytest.mark.engine, pytest.mark.several_engines, pytest.mark.timeout(6 * READY_SECONDS)]

LONG_S = 2 * READY_SECONDS
TAKEN_OVER_S = 120


def taken_over(asked: list[Asked], release: str, since: float, seconds: float = TAKEN_OVER_S) -> None:
    """Wait until the release's student answers, and some more is asked then."""
    wait_until(lambda: answered_by(asked, release, since), seconds)
    until = len(asked) + 30
    wait_until(lambda: len(asked) >= until, TAKEN_OVER_S)


def check(swaps: SwapWorld, asked: list[Asked], at_least: int) -> None:
    assert [(each, why) for each in asked if (why := swaps.wrong(each))] == []
    assert len(asked) >= at_least
    assert {each.route for each in asked} >= {"student"}


def test_in_place_one_server_takes_each_releases_weights_and_a_candidates_own_server_ends(tmp_path: Path):
    with swap_world(tmp_path, "in_place") as swaps:
        swaps.add("r1", 1)
        swaps.promote("r1")
        swaps.served("r1", LONG_S)
        server = swaps.replicas()["r1"]
        swaps.add("r2", 2)
        with swaps.load() as asked:
            taken_over(asked, "r1", 0)
            taken_over(asked, "r2", swaps.promote("r2"))
            assert swaps.replicas() == {"r2": server}
            taken_over(asked, "r1", swaps.promote("r1"))
            taken_over(asked, "r2", swaps.promote("r2"))
        check(swaps, asked, 100)

        swaps.add("r3", 3, "candidate")
        swaps.served("r3", LONG_S)
        assert swaps.replicas()["r3"] != server
        with swaps.load() as asked:
            taken_over(asked, "r2", 0)
            taken_over(asked, "r3", swaps.promote("r3"))
            wait_until(lambda: swaps.replicas() == {"r3": server}, TAKEN_OVER_S)
            wait_until(lambda: not swaps.replicas("draining"), TAKEN_OVER_S)
            taken_over(asked, "r3", 0)
        check(swaps, asked, 100)
        refused = httpx.post(f"{server.removesuffix('/v1')}/pause", trust_env=False)
        assert refused.status_code == 403, "the routes of the swap are the fleet's only"


def test_adapters_are_loaded_beside_each_other_and_a_rollback_is_at_once(tiny_model: Path, tmp_path: Path):
    with swap_world(tmp_path, "adapter", base=tiny_model) as swaps:
        swaps.add("r1", 1)
        swaps.promote("r1")
        swaps.served("r1", LONG_S)
        server = swaps.replicas()["r1"]
        swaps.add("r2", 2, "candidate")
        swaps.served("r2", TAKEN_OVER_S)
        assert set(swaps.replicas().values()) == {server}
        with swaps.load() as asked:
            taken_over(asked, "r1", 0)
            taken_over(asked, "r2", swaps.promote("r2"))
            taken_over(asked, "r1", swaps.roll_back())
            taken_over(asked, "r2", swaps.promote("r2"))
            swaps.add("r3", 3, "candidate")
            swaps.served("r3", TAKEN_OVER_S)
            taken_over(asked, "r3", swaps.promote("r3"))
            # of the two before, only the one that a rollback would bring back stays
            wait_until(lambda: set(swaps.replicas()) == {"r2", "r3"}, TAKEN_OVER_S)
        check(swaps, asked, 150)
        models = httpx.get(f"{server}/models", trust_env=False).json()["data"]
        assert {model["id"] for model in models} - {"student"} == {"r2", "r3"}
        assert all(each.route == "student" for each in asked), "there was always an adapter to ask"


def test_blue_green_a_second_server_takes_over_and_the_first_one_drains(tmp_path: Path):
    with swap_world(tmp_path, "blue_green") as swaps:
        swaps.add("r1", 1)
        swaps.promote("r1")
        swaps.add("r2", 2)
        swaps.served("r1", LONG_S)
        with swaps.load() as asked:
            taken_over(asked, "r1", 0)
            # it has no server yet: the one before answers until it has
            taken_over(asked, "r2", swaps.promote("r2"), LONG_S)
            taken_over(asked, "r1", swaps.roll_back())
            taken_over(asked, "r2", swaps.promote("r2"), LONG_S)
            swaps.keep_previous(0)
            wait_until(lambda: set(swaps.replicas()) == {"r2"}, TAKEN_OVER_S)
        check(swaps, asked, 100)
        assert all(each.route == "student" for each in asked), "there was always a student to ask"
