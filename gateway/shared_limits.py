"""Limits and budgets that all gateways on one Redis keep together (``gateway.redis_url``).

A request is counted by its own process first, as without Redis, and then there. What Redis does not answer in time
stands as this process counted it.
"""

import asyncio
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from prometheus_client import Counter

from gateway.errors import RateLimited
from gateway.limits import headers_of, refusal, too_many
from gateway.redis_link import Command, LinkDown, RedisLink, Talk
from ledger.records import RequestRecord
from ledger.spending import Reading

__all__ = ("Money", "SharedLimits", "Taken", "Wanted")

ALIVE_MS: Final = 10_000
"""A process that was not heard of for so long holds nothing."""
MOST_UNTOLD: Final = 50_000
UNUSED_S: Final = 60.0
NS_PER_US: Final = 1_000
THREAD_WAIT_S: Final = 0.5

Verdict: TypeAlias = Literal["", "slots", "requests", "tokens", "budget"]


@dataclass(frozen=True, slots=True)
class Money:
    """What a request reserves of its key's budgets, in nano-units; -1 for a budget that there is not."""

    amount: int = 0
    of_day: int = -1
    of_month: int = -1
    day: int = 0
    in_day: int = 0
    month: int = 0
    in_month: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request takes. ``most`` is -1 where its key may have any number at once, 0 per minute is no limit."""

    most: int
    requests: int
    tokens: int
    of_tokens: int
    money: Money


@dataclass(frozen=True, slots=True)
class Taken:
    """What Redis said: nothing where all of it was taken, else what there was none of. ``used`` in 1/60e6."""

    verdict: Verdict
    used_requests: int
    used_tokens: int

    def headers(self, wanted: Wanted) -> dict[str, str]:
        """OpenAI's, of what is limited."""
        of_tokens = wanted.tokens if wanted.of_tokens else 0
        kinds = (("requests", wanted.requests, self.used_requests), ("tokens", of_tokens, self.used_tokens))
        found: dict[str, str] = {}
        for kind, per_minute, used in kinds:
            if per_minute:
                found |= headers_of(kind, per_minute, used * NS_PER_US)
        return found

    def refusal(self, wanted: Wanted) -> RateLimited:
        """Of what there was none of, but for money."""
        if self.verdict == "slots":
            return too_many(wanted.most)
        if self.verdict == "requests":
            return refusal("requests", wanted.requests, 1, self.used_requests * NS_PER_US)
        return refusal("tokens", wanted.tokens, wanted.of_tokens, self.used_tokens * NS_PER_US)


@dataclass(slots=True)
class _Held:
    slots: int = 0
    money: int = 0


@dataclass
class SharedLimits:
    """This process's part in it, on the loop but for what says otherwise."""

    url: str
    missed: Counter
    """Requests that this process alone has counted."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when another process said that the state of things changed, and when Redis was reached."""
    process: str = ""
    """The name of this process there; a new one with each connection."""
    _held: dict[str, _Held] = field(default_factory=dict[str, _Held])
    _dirty: set[str] = field(default_factory=set[str])
    _open: OrderedDict[str, tuple[str, int, int]] = field(default_factory=OrderedDict[str, tuple[str, int, int]])
    """Of this process, by request: its key, what it cost and when it was made, until it is found in the store."""
    _untold: list[Command] = field(default_factory=list[Command])
    _active: dict[str, float] = field(default_factory=dict[str, float])
    """Keys whose budgets are counted there now, and when they were used last (monotonic)."""
    _listed: dict[str, set[str]] = field(default_factory=dict[str, set[str]])

    def __post_init__(self) -> None:
        """Nothing is connected before `run`."""
        self._link = RedisLink(self.url, Talk(self._told, self._beat, self._greeted, self.changed.set))

    @property
    def reachable(self) -> bool:
        """Whether Redis is there."""
        return self._link.up

    async def run(self) -> None:
        """Until cancelled."""
        await self._link.run()

    # of requests

    async def take(self, key_id: str, wanted: Wanted) -> Taken | None:
        """Take it for a request that this process has let in; `hold` gives slot and money back, of one that Redis
        could not be asked for (None) as well.
        """
        money, slots = wanted.money, int(wanted.most >= 0)
        if money.amount:
            self._active[key_id] = time.monotonic()
        try:
            said = await self._link.ask(
                _keys(key_id), "take", self.process, wanted.most, wanted.requests, wanted.tokens, wanted.of_tokens,
                money.amount, money.of_day, money.of_month, money.day, money.in_day, money.month, money.in_month,
            )  # fmt: skip
        except LinkDown:
            self.missed.inc()
            self.hold(key_id, slots, money.amount)
            return None
        except asyncio.CancelledError:
            # it may have been taken there, for nobody
            self.hold(key_id, 0, 0)
            raise
        verdict, requests, tokens = (each.decode() for each in said)
        if not verdict:
            held = self._held.setdefault(key_id, _Held())
            held.slots, held.money = held.slots + slots, held.money + money.amount
        return Taken(verdict, int(requests), int(tokens))

    def hold(self, key_id: str, slots: int, money: int) -> None:
        """This process holds so much more of a key, or less; what it holds in all will be told."""
        held = self._held.setdefault(key_id, _Held())
        held.slots, held.money = max(0, held.slots + slots), max(0, held.money + money)
        self._dirty.add(key_id)
        self._link.wake()

    def correct(self, key_id: str, per_minute: int, tokens: int) -> None:
        """Count so many tokens more, or less, of what was taken."""
        self._tell(Command(_keys(key_id), ("correct", per_minute, tokens)))

    def settled(self, record: RequestRecord) -> None:
        """A request of a key with a budget was recorded."""
        key_id = record.key_id or ""
        self._active[key_id] = time.monotonic()
        self._open[record.id] = key_id, record.cost_nano, record.created_at
        if len(self._open) > MOST_UNTOLD:
            self._open.popitem(last=False)
        self._tell(_settle(record.id, *self._open[record.id]))

    # of readings of the store

    def versions(self) -> dict[str, str]:
        """Of the keys whose budgets are in use there: what `apply` needs of the time before a reading. Blocks, in a
        thread.
        """
        keys = list(self._active)
        return dict(zip(keys, self._from_thread(keys, "version"), strict=False))

    def opened(self) -> dict[str, int]:
        """The requests that are open there, each with the time it was made. Blocks, in a thread."""
        keys = list(self._active)
        found = dict(zip(keys, map(_by_request, self._from_thread(keys, "opened")), strict=False))
        self._listed = {key_id: set(requests) for key_id, requests in found.items()}
        return {request: at for requests in found.values() for request, at in requests.items()}

    def apply(self, reading: Reading, versions: Mapping[str, str]) -> None:
        """Tell what the store has, to whom nobody told newer."""
        for key_id, version in versions.items():
            spent, periods = reading.spent.get(key_id), reading.periods
            if spent is None:
                continue
            stored = " ".join(self._listed.get(key_id, set()).intersection(reading.stored))
            sums = (periods.day, spent.day, periods.month, spent.month)
            self._tell(Command(_keys(key_id), ("apply", version, *sums, stored)))
        for request in reading.stored:
            self._open.pop(request, None)
        unused = time.monotonic() - UNUSED_S
        self._active = {key_id: at for key_id, at in self._active.items() if at > unused}

    def _from_thread(self, keys: Sequence[str], action: str) -> list[Any]:
        """The answer for each key; nothing where Redis is away."""
        link = self._link
        if not (keys and link.up and link.loop):
            return []

        async def ask() -> list[Any]:
            return await asyncio.gather(*(link.ask(_keys(key_id), action) for key_id in keys))

        try:
            return asyncio.run_coroutine_threadsafe(ask(), link.loop).result(THREAD_WAIT_S)
        except (LinkDown, TimeoutError):
            return []

    # of the connection

    def _tell(self, command: Command) -> None:
        # what is not told meanwhile is told anew from `_open` and `_held` when Redis is back
        if self._link.up:
            self._untold.append(command)
            self._link.wake()

    def _told(self) -> list[Command]:
        commands, self._untold = self._untold, []
        for key_id in self._dirty:
            held = self._held[key_id]
            commands.append(Command(_keys(key_id), ("hold", self.process, held.slots, held.money)))
            if not (held.slots or held.money):
                del self._held[key_id]
        self._dirty.clear()
        return commands

    def _beat(self) -> Command:
        return Command(_keys(""), ("beat", self.process, ALIVE_MS))

    def _greeted(self, connected: bool) -> None:
        """Redis is there, and does not know of this process what it should."""
        self._untold = [_settle(request, *found) for request, found in self._open.items()]
        if connected:
            # under another name, so that nothing is left of what it held before and gave back meanwhile
            self._untold.insert(0, Command(_keys(""), ("leave", self.process)))
            self.process = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._dirty.update(self._held)
        # what the store got meanwhile counts at once
        self.changed.set()


def _keys(key_id: str) -> tuple[str, str, str]:
    return f"stillroom:key:{key_id}", f"stillroom:open:{key_id}", "stillroom:alive"


def _settle(request: str, key_id: str, cost: int, created_at: int) -> Command:
    return Command(_keys(key_id), ("settle", request, cost, created_at))


def _by_request(pairs: Sequence[bytes]) -> dict[str, int]:
    texts = [each.decode() for each in pairs]
    return {request: int(value.split()[1]) for request, value in zip(texts[::2], texts[1::2], strict=True)}
