"""Upstreams fail in turn while clients keep asking: every request ends properly, and the ledger has each once."""

import asyncio
import signal
from collections import Counter

import sqlalchemy as sa

from ledger import schema
from tests.fault_proxy import EVENT_END, GOOD, HEAD_END, Fault
from tests.gateway_fixtures import wait_until
from tests.load.conftest import GOOD_SCRIPT, Arena
from tests.load.traffic import Load, Tally, tell
from tests.scripted_upstream import Script

CLIENTS, FAULT_SECONDS, GOOD_SECONDS = 32, 0.8, 0.3
LIMITED = Script(
    status=429,
    headers={"retry-after": "5"},
    body=b'{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}',
)
FAULTS = {
    "killed": (Fault("refuse"), GOOD_SCRIPT),
    "stalled": (Fault("stall"), GOOD_SCRIPT),
    "truncated": (Fault("close", HEAD_END, 1, 200), GOOD_SCRIPT),
    "truncated late": (Fault("close", EVENT_END, 6, 20), GOOD_SCRIPT),
    "corrupted": (Fault("close", EVENT_END, 6, insert=b"ZZZ\r\n"), GOOD_SCRIPT),
    "rate-limited": (GOOD, LIMITED),
    "failing": (GOOD, Script(status=500, body=b"")),
    "reset": (Fault("reset", HEAD_END, 1), GOOD_SCRIPT),
}


def touched(arena: Arena, side: str) -> int:
    """How many requests were to be answered by this side at some point, by the ledger."""
    columns = (schema.requests.c.route, schema.requests.c.reason, sa.func.count())
    with arena.gateway.store.read() as connection:
        groups = connection.execute(sa.select(*columns).group_by(*columns[:2])).all()
    also = {"student": ("student_down", "low_confidence", "unsupported"), "teacher": ("teacher_down",)}[side]
    return sum(n for route, reason, n in groups if route == side or reason in also)


def settled(arena: Arena, tally: Tally) -> list[str]:
    """The ledger's ids, once those of the tally are all there."""
    wait_until(lambda: set(tally.ids) <= set(arena.gateway.recorded()))
    return arena.gateway.recorded()


async def flap(arena: Arena) -> Tally:
    """Each side suffers each fault in turn, and both at once the first."""
    async with Load(arena.gateway, CLIENTS) as load:
        for side in ("student", "teacher"):
            for network, script in FAULTS.values():
                await asyncio.to_thread(arena.suffer, side, network, script)
                await asyncio.sleep(FAULT_SECONDS)
                await load.each_asked(1)
                await asyncio.to_thread(arena.suffer, side)
                await asyncio.sleep(GOOD_SECONDS)
                await load.each_asked(1)
        for side in ("student", "teacher"):
            await asyncio.to_thread(arena.suffer, side, Fault("reset"))
        await asyncio.sleep(FAULT_SECONDS)
        for side in ("student", "teacher"):
            await asyncio.to_thread(arena.suffer, side)
    return load.tally


def test_every_request_ends_properly_and_is_recorded_once_while_upstreams_flap(arena: Arena):
    tally = asyncio.run(flap(arena))
    tell(tally.summary())
    assert (tally.improper, tally.cut) == ([], 0)
    assert len(tally.answered) > tally.sent / 2 > 500
    assert tally.refused
    assert tally.broken
    recorded = settled(arena, tally)
    assert Counter(recorded) == Counter(tally.ids), "lost or doubled"
    assert arena.gateway.rolled_up() == len(recorded)
    assert arena.gateway.metric("stillroom_requests_total") == len(recorded)
    assert arena.gateway.metric("stillroom_in_flight_requests") == 0
    for side, network in arena.networks.items():
        meant = touched(arena, side)
        tell(f"{side}: {network.requests} calls for {meant} requests")
        assert network.requests <= 1.2 * meant + 20, "a flapping upstream was asked more than its share"
    assert "Traceback" not in arena.gateway.log()


async def flicker(arena: Arena) -> Tally:
    """The teacher fails, at once and in a way that is tried again, for most of the time."""
    async with Load(arena.gateway, CLIENTS, pause=0.02) as load:
        for _ in range(5):
            await asyncio.to_thread(arena.suffer, "teacher", *FAULTS["failing"])
            await asyncio.sleep(0.5)
            await asyncio.to_thread(arena.suffer, "teacher")
            await asyncio.sleep(0.1)
            await load.each_asked(1)
    return load.tally


def test_an_upstream_that_flickers_is_not_asked_more_often_for_it(arena: Arena):
    before = touched(arena, "teacher")
    tally = asyncio.run(flicker(arena))
    settled(arena, tally)
    calls, meant = arena.networks["teacher"].requests, touched(arena, "teacher") - before
    tell(f"{tally.summary()}; {calls} calls for {meant} requests")
    assert (tally.improper, tally.cut) == ([], 0)
    assert meant > 100
    assert calls <= 1.2 * meant + 10, "retries amplify the load"


async def flap_and_kill(arena: Arena) -> Tally:
    async with Load(arena.gateway, CLIENTS) as load:
        for fault in ("truncated late", "reset"):
            await asyncio.to_thread(arena.suffer, "student", *FAULTS[fault])
            await asyncio.sleep(0.7)
            await asyncio.to_thread(arena.gateway.end, signal.SIGKILL)
            await asyncio.to_thread(arena.gateway.start)
            await asyncio.to_thread(arena.suffer, "student")
            await asyncio.sleep(0.3)
            await load.each_asked(2)
    return load.tally


def test_a_gateway_killed_amid_failing_upstreams_loses_no_request_that_it_ended(arena: Arena):
    before = Counter(arena.gateway.recorded())
    tally = asyncio.run(flap_and_kill(arena))
    tell(tally.summary())
    assert tally.improper == []
    assert len(tally.ids) > 100
    recorded = Counter(settled(arena, tally)) - before
    assert max(recorded.values()) == 1
    assert arena.gateway.rolled_up() == recorded.total() + before.total()
