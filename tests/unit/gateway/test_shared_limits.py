"""Limits that processes share, on a real Redis: exact together, and each for itself while Redis is away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from gateway import shared_limits as module
from gateway.errors import RateLimited
from gateway.limits import MINUTE_NS, RateLimit
from gateway.redis_link import CHANNEL
from gateway.shared_limits import Money, SharedLimits, Taken, Wanted
from ledger.spending import Periods, Reading, Spent
from tests.redis_server import RedisServer
from tests.unit.ledger.rows import row

DAY, MONTH = 86_400_000, 0


def wanted(
    most: int = -1, requests: int = 0, tokens: int = 0, of_tokens: int = 0, money: Money | None = None
) -> Wanted:
    return Wanted(most, requests, tokens, of_tokens, money or Money())


def priced(amount: int, budget: int, spent: int = 0) -> Wanted:
    """Of a budget for the day."""
    return wanted(money=Money(amount, budget, -1, DAY, spent, MONTH, spent))


def reading(spent: int, *stored: str) -> Reading:
    return Reading(Periods(DAY, MONTH), {"k": Spent(spent, spent)}, stored)


async def until(condition, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 another process's doing, of which no event tells
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def processes(server: RedisServer, number: int = 3) -> AsyncIterator[list[SharedLimits]]:
    """So many gateways' parts in it, connected."""
    counter = Counter("missed", "x", registry=CollectorRegistry())
    all_ = [SharedLimits(server.url, counter) for _ in range(number)]
    tasks = [asyncio.create_task(each.run()) for each in all_]
    try:
        await until(lambda: all(each.reachable for each in all_))
        yield all_
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def verdict(shared: SharedLimits, want: Wanted, key: str = "k") -> str:
    """What Redis says, once it is back: a process may not have noticed that it was away."""
    async with asyncio.timeout(30):
        while (taken := await shared.take(key, want)) is None:
            shared.hold(key, -1, -want.money.amount)
            await asyncio.sleep(0.05)
    return taken.verdict


async def verdicts(all_: list[SharedLimits], count: int, want: Wanted) -> list[str]:
    """What so many requests at once are told, spread over the processes."""
    taken = await asyncio.gather(*(all_[i % len(all_)].take("k", want) for i in range(count)))
    return [each.verdict for each in taken if each is not None]


async def test_all_together_let_in_as_many_requests_as_one_limit_has_room_for(redis_server):
    async with processes(redis_server) as all_:
        found = await verdicts(all_, 60, wanted(requests=20))
        assert sorted(found) == [""] * 20 + ["requests"] * 40


async def test_all_together_hold_as_many_slots_as_a_key_has_and_what_one_gives_back_another_takes(redis_server):
    async with processes(redis_server) as all_:
        want = wanted(most=5)
        assert (await all_[0].take("k", want)).verdict == ""
        assert (await verdicts(all_, 30, want)).count("") == 4
        all_[0].hold("k", -1, 0)
        # what a process is asked next goes behind what it has to tell
        await all_[0].take("x", want)
        assert (await verdicts(all_, 30, want)).count("") == 1


async def test_tokens_that_were_not_used_are_there_for_the_others(redis_server):
    async with processes(redis_server, 2) as (one, other):
        want = wanted(tokens=1_000, of_tokens=800)
        assert (await one.take("k", want)).verdict == ""
        refused = await other.take("k", want)
        assert refused.verdict == "tokens"
        assert "retry-after" in refused.refusal(want).headers
        one.correct("k", 1_000, -700)
        await one.take("other", want)
        assert (await other.take("k", want)).verdict == ""


async def test_a_budget_is_overspent_by_one_request_at_most(redis_server):
    async with processes(redis_server) as all_:
        found = await verdicts(all_, 200, priced(3, budget=10, spent=2))
        # 2 + 3 + 3 + 3 = 11: the last began below the budget
        assert found.count("") == 3
        assert found.count("budget") == 197


async def test_what_was_recorded_counts_until_the_store_has_it_and_then_once(redis_server):
    async with processes(redis_server, 2) as (one, other):
        assert (await one.take("k", priced(5, budget=10))).verdict == ""
        one.settled(row("r1", key_id="k", cost_nano=9, created_at=DAY))
        one.hold("k", 0, -5)
        assert (await one.take("k", priced(1, budget=10))).verdict == ""
        assert (await other.take("k", priced(1, budget=10))).verdict == "budget"
        versions, waiting = await asyncio.to_thread(lambda: (other.versions(), other.opened()))
        assert waiting == {"r1": DAY}
        other.apply(reading(9, "r1"), versions)
        assert (await other.take("k", priced(1, budget=11))).verdict == ""
        assert (await one.take("k", priced(1, budget=11))).verdict == "budget"


async def test_an_older_reading_of_the_store_does_not_undo_a_newer_one(redis_server):
    async with processes(redis_server, 2) as (one, other):
        assert (await one.take("k", priced(1, budget=100))).verdict == ""
        one.hold("k", 0, -1)
        one.settled(row("r1", key_id="k", cost_nano=99, created_at=DAY))
        assert (await other.take("k", priced(1, budget=1_000))).verdict == ""
        other.hold("k", 0, -1)
        old, _ = await asyncio.to_thread(lambda: (one.versions(), one.opened()))
        new, _ = await asyncio.to_thread(lambda: (other.versions(), other.opened()))
        other.apply(reading(99, "r1"), new)
        await until(lambda: not other._untold)
        one.apply(reading(0), old)
        assert (await one.take("k", priced(1, budget=99))).verdict == "budget"


async def test_a_new_day_begins_with_nothing_spent(redis_server):
    async with processes(redis_server, 1) as (one,):
        assert (await one.take("k", priced(1, budget=10, spent=10))).verdict == "budget"
        tomorrow = wanted(money=Money(1, 10, -1, 2 * DAY, 10, MONTH, 10))
        assert (await one.take("k", tomorrow)).verdict == ""


async def test_what_a_process_held_that_died_is_free_after_a_while(redis_server, monkeypatch):
    monkeypatch.setattr(module, "ALIVE_MS", 200)
    async with processes(redis_server, 1) as (living,):
        async with processes(redis_server, 1) as (dying,):
            assert (await dying.take("k", wanted(most=1))).verdict == ""
            assert (await living.take("k", wanted(most=1))).verdict == "slots"
        async with asyncio.timeout(30):
            while (await living.take("k", wanted(most=1))).verdict:  # noqa: ASYNC110 only Redis knows
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("gone", ["killed", "frozen"])
async def test_without_redis_each_counts_alone_and_with_it_what_is_held_counts_again(redis_server, gone):
    async with processes(redis_server, 2) as (one, other):
        assert (await one.take("k", wanted(most=3))).verdict == ""
        one.settled(row("r1", key_id="k", cost_nano=7, created_at=DAY))
        redis_server.stop() if gone == "killed" else redis_server.freeze()
        assert [await one.take("k", wanted(most=3)) for _ in range(2)] == [None, None]
        assert not one.reachable
        assert one.missed._value.get() == 2
        redis_server.start() if gone == "killed" else redis_server.thaw()
        assert await verdict(one, wanted(), "x") == ""
        assert await verdict(other, wanted(most=3)) == "slots"
        assert await verdict(other, priced(1, budget=7)) == "budget"


async def test_what_was_given_back_while_redis_was_away_is_free_when_it_is_back(redis_server):
    async with processes(redis_server, 2) as (one, other):
        assert (await one.take("k", wanted(most=1))).verdict == ""
        redis_server.freeze()
        assert await one.take("x", wanted(most=1)) is None
        one.hold("k", -1, 0)
        redis_server.thaw()
        assert await verdict(one, wanted(), "y") == ""
        assert await verdict(other, wanted(most=1)) == ""


async def test_a_redis_that_forgot_everything_is_told_again(redis_server, monkeypatch):
    async with processes(redis_server, 2) as (one, other):
        assert (await one.take("k", wanted(most=1))).verdict == ""
        with redis_server.client() as client:
            client.flushall()
        async with asyncio.timeout(30):
            while (await other.take("k", wanted(most=1))).verdict == "":
                other.hold("k", -1, 0)
                await asyncio.sleep(0.1)


async def test_who_gives_up_waiting_holds_nothing(redis_server):
    async with processes(redis_server, 1) as (one,):
        for _ in range(5):
            task = asyncio.create_task(one.take("k", wanted(most=1)))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                taken = await task
                one.hold("k", -1, 0)
                assert taken.verdict == ""
        assert (await one.take("k", wanted(most=1))).verdict == ""


async def test_a_change_that_is_announced_is_heard(redis_server):
    async with processes(redis_server, 2) as all_:
        for each in all_:
            each.changed.clear()
        with redis_server.client() as client:
            # a subscription begins a moment after the connection
            await until(lambda: client.publish(CHANNEL, "") == 2)
        await until(lambda: all(each.changed.is_set() for each in all_))


def test_the_meter_says_what_that_of_one_process_says():
    alone, want = RateLimit("requests"), wanted(requests=6)
    for used in range(1, 7):
        assert alone.take("k", 6, 1, 0) == Taken("", used * MINUTE_NS // 1_000, 0).headers(want)
    with pytest.raises(RateLimited) as refused:
        alone.take("k", 6, 1, 0)
    told = Taken("requests", 6 * MINUTE_NS // 1_000, 0).refusal(want)
    assert (str(told), told.headers) == (str(refused.value), refused.value.headers)
