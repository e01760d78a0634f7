"""``python -m bench.limits``: what one decision over a key's limits costs on Redis, by our script and by `limits`.

Needs redis-server, and the library in a virtual environment of its own, as peers of the gateway have:
``python -m venv /tmp/peers/limits && /tmp/peers/limits/bin/pip install limits redis``.

Both ask one Redis over one connection pool, so many callers at a time, of 100 keys in turn. ``one limit`` counts
requests per minute only. ``all limits`` is what the gateway asks: requests, tokens and requests at once of a key, and
its budget; the library has no budgets and nothing held, and counts two windows in two calls. CPU is that of the
asking process and of Redis.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(os.environ.get("BENCH_PEERS", "/tmp/peers"))
KEYS: Final = 100
PER_MINUTE: Final = 60_000_000
"""So that nothing is refused: that would be cheaper."""

Figures = dict[str, float]
Ask = Callable[[int], Awaitable[Any]]


def main() -> None:
    """Measure each in a process of its own, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=64, help="at a time")
    parser.add_argument("--side", choices=SIDES, help="measure this one here, against --url")
    parser.add_argument("--url", help="of Redis, with --side")
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(asyncio.run(_measured(asked.side, asked.url, asked.calls, asked.callers))))
        return
    python = FOLDER / "limits" / "bin" / "python"
    if not python.exists():
        parser.error(f"{python} is not there: see --help")
    from bench.gateway import machine  # noqa: PLC0415 the library's environment has no part of ours
    from tests.redis_server import RedisServer  # noqa: PLC0415 as above

    server = RedisServer()
    try:
        print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
        print("\n| | decisions/s | CPU of the caller, µs | CPU of Redis, µs |\n|---|---:|---:|---:|")
        for side in SIDES:
            with_ours = side.startswith("ours")
            with server.client() as client:
                client.flushall()
            before = machine.cpu_seconds([server.pid])
            command = [
                sys.executable if with_ours else str(python),
                "-P",
                __file__,
                "--side",
                side,
                "--url",
                server.url,
            ]
            more = ["--calls", str(asked.calls), "--callers", str(asked.callers)]
            said = subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE, env=_environment(with_ours))
            found = json.loads(said.stdout.splitlines()[-1])
            redis = (machine.cpu_seconds([server.pid]) - before) / asked.calls * 1e6
            print(f"| {side} | {found['per_second']:,.0f} | {found['cpu_us']:.1f} | {redis:.1f} |", flush=True)
    finally:
        server.remove()


def _environment(with_ours: bool) -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return os.environ | {"PYTHONPATH": root if with_ours else ""}


async def _measured(side: str, url: str, calls: int, callers: int) -> Figures:
    async with contextlib.AsyncExitStack() as stack:
        ask = await SIDES[side](url, stack)
        await _ask_often(ask, calls // 10, callers)
        used, begins = time.process_time(), time.perf_counter()
        await _ask_often(ask, calls, callers)
        seconds = time.perf_counter() - begins
        return {"per_second": calls / seconds, "cpu_us": (time.process_time() - used) / calls * 1e6}


async def _ask_often(ask: Ask, calls: int, callers: int) -> None:
    async def one(first: int) -> None:
        for number in range(first, calls, callers):
            await ask(number % KEYS)

    await asyncio.gather(*(one(first) for first in range(callers)))


async def _ours(url: str, stack: contextlib.AsyncExitStack, everything: bool) -> Ask:
    from prometheus_client import Counter  # noqa: PLC0415 not in the library's environment

    from gateway.shared_limits import Money, SharedLimits, Wanted  # noqa: PLC0415 as above

    shared = SharedLimits(url, Counter("missed", "missed"))
    running = asyncio.create_task(shared.run())
    stack.push_async_callback(partial(asyncio.gather, running, return_exceptions=True))
    stack.callback(running.cancel)
    while not shared.reachable:  # noqa: ASYNC110 nothing else tells of it
        await asyncio.sleep(0.01)
    money = Money(1, 10**15, 10**15, 0, 0, 0, 0)
    wanted = (
        Wanted(10**6, PER_MINUTE, PER_MINUTE, 300, money) if everything else Wanted(-1, PER_MINUTE, 0, 0, Money())
    )

    async def take(key: int) -> None:
        taken = await shared.take(f"key{key}", wanted)
        assert taken is not None and not taken.verdict, "Redis was late, or refused"
        if everything:
            shared.hold(f"key{key}", -1, -1)

    return take


async def _theirs(url: str, everything: bool, kind: str) -> Ask:
    from limits import RateLimitItemPerMinute  # noqa: PLC0415 in an environment of its own
    from limits.aio import strategies  # noqa: PLC0415 as above
    from limits.storage import storage_from_string  # noqa: PLC0415 as above

    limiter = getattr(strategies, kind)(storage_from_string(f"async+{url}", implementation="redispy"))
    requests, tokens = RateLimitItemPerMinute(PER_MINUTE), RateLimitItemPerMinute(PER_MINUTE, namespace="TOKENS")

    async def take(key: int) -> None:
        await limiter.hit(requests, f"key{key}")
        if everything:
            await limiter.hit(tokens, f"key{key}", cost=300)

    return take


SIDES: Final[dict[str, Callable[[str, contextlib.AsyncExitStack], Awaitable[Ask]]]] = {
    "ours, one limit": lambda url, stack: _ours(url, stack, everything=False),
    "limits, fixed window": lambda url, _: _theirs(url, False, "FixedWindowRateLimiter"),
    "limits, sliding window": lambda url, _: _theirs(url, False, "SlidingWindowCounterRateLimiter"),
    "limits, moving window": lambda url, _: _theirs(url, False, "MovingWindowRateLimiter"),
    "ours, all limits and its giving back": lambda url, stack: _ours(url, stack, everything=True),
    "limits, two sliding windows": lambda url, _: _theirs(url, True, "SlidingWindowCounterRateLimiter"),
}


if __name__ == "__main__":
    main()
