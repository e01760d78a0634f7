"""Two real servers of a release: conversations stay with one of them, and both give way to the next under load."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_fixtures import READY_SECONDS
from tests.gateway_fixtures import RELEASE, wait_until
from tests.integration.serving.test_swaps import LONG_S, TAKEN_OVER_S, check, taken_over
from tests.swap_world import SwapWorld, swap_world
from tests.two_students import balanced, cached, converse

pytestmark = [pytest.mark.engine, pytest.mark.several_engines, pytest.mark.timeout(10 * READY_SECONDS)]

CONVERSATIONS, TURNS, WORDS = 9, 4, 70
AT_ONCE = 3
"""No multiple of two: conversations in step would otherwise meet the same server in every turn."""


@pytest.fixture(scope="module")
def swaps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwapWorld]:
    """A live release with two servers."""
    with swap_world(tmp_path_factory.mktemp("several"), "blue_green", servers=2) as swaps:
        swaps.add(RELEASE, 1)
        swaps.promote(RELEASE)
        swaps.served(RELEASE, 2 * LONG_S, servers=2)
        yield swaps


def test_conversations_find_more_in_vllms_cache_than_when_each_server_has_its_turn(swaps: SwapWorld, tmp_path: Path):
    urls = [url.removesuffix("/v1") for url in swaps.urls(RELEASE)]
    rates: dict[str, float] = {}
    for balance in ("in_turn", "affinity"):
        before = [cached([url]) for url in urls]
        with balanced(tmp_path / balance, swaps.router, urls, balance) as world:
            names = [f"{balance} {n}" for n in range(CONVERSATIONS)]
            asked = converse(world, names, TURNS, WORDS, AT_ONCE)
        assert {(each.status, each.route) for each in asked} == {(200, "student")}
        assert len(asked) == CONVERSATIONS * TURNS
        since = [cached([url]).since(was) for url, was in zip(urls, before, strict=True)]
        assert all(each.queries > 0 for each in since), "both are asked"
        rates[balance] = sum(each.hits for each in since) / sum(each.queries for each in since)
    assert rates["affinity"] > rates["in_turn"] + 0.05, rates


def test_both_servers_roll_to_the_next_release_and_every_answer_is_of_one(swaps: SwapWorld):
    swaps.add("r2", 2)
    first = swaps.urls(RELEASE)
    with swaps.load() as asked:
        taken_over(asked, RELEASE, 0)
        taken_over(asked, "r2", swaps.promote("r2"), 2 * LONG_S)
        swaps.served("r2", 2 * LONG_S, servers=2)
        second = swaps.urls("r2")
        until = len(asked) + 60
        wait_until(lambda: len(asked) >= until, TAKEN_OVER_S)
        swaps.keep_previous(0)
        wait_until(lambda: not swaps.urls(RELEASE) and not swaps.urls(RELEASE, "draining"), TAKEN_OVER_S)
        until = len(asked) + 20
        wait_until(lambda: len(asked) >= until, TAKEN_OVER_S)
    check(swaps, asked, 100)
    assert len({*first, *second}) == 4
    assert {each.route for each in asked} == {"student"}, "there was always a student to ask"
    in_order = [each.release for each in sorted(asked, key=lambda each: each.began)]
    assert in_order.index("r2") > 20
    assert {*in_order} == {RELEASE, "r2"}
