"""The upstreams of a side, what is known of each, and which of them is asked next."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import structlog

from gateway import balance
from gateway.balance import Load, salt_of
from gateway.breaker import Breaker
from gateway.call import Call
from gateway.metrics import Metrics
from gateway.upstream import Upstream

__all__ = ("Member", "Members", "Order")

Order: TypeAlias = Literal["first", "in_turn", "affinity"]

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Member:
    """An upstream, its place among the others, its breaker, and what it has under way."""

    upstream: Upstream
    index: int
    load: Load
    breaker: Breaker = field(default_factory=Breaker)


class Members:
    """All upstreams of a side. ``order`` says which is asked: always the ``first``, each ``in_turn``, or by
    ``affinity`` (`gateway/balance.py`); the others where that one fails.
    """

    def __init__(self, upstreams: Sequence[Upstream], metrics: Metrics, order: Order) -> None:
        self._metrics, self._template, self._turn = metrics, upstreams[0], 0
        self._place: tuple[tuple[str, ...], str | None, str | None] | None = None
        self._order: Order = order
        self.all = [Member(each, index, Load(salt_of(each.base_url))) for index, each in enumerate(upstreams)]
        for member in self.all:
            self.show(member)

    def serve_at(self, urls: tuple[str, ...], release: str | None, model: str | None) -> None:
        """Ask this release at these URLs from now on, as this model (None: the first's). A URL that stays is known as
        it was; one that joins others begins slowly.
        """
        place = (urls, release, model)
        if place == self._place:
            return
        known = {member.upstream.base_url: member for member in self.all}
        joined = time.monotonic() if known.keys() & set(urls) else float("-inf")
        for member in self.all:
            self._metrics.forget_upstream(member.upstream.name, str(member.index))
        self._place, self.all = place, []
        for index, url in enumerate(urls):
            each = replace(self._template, base_url=url, release=release, model=model or self._template.model)
            before = known.get(url)
            load = before.load if before else Load(salt_of(url), joined)
            self.all.append(Member(each, index, load, before.breaker if before else Breaker()))
            self.show(self.all[-1])

    @property
    def api_key(self) -> str | None:
        """What all of them are sent whose place `serve_at` tells."""
        return self._template.api_key

    def key(self, call: Call) -> int:
        """What the order goes by, for one request."""
        if self._order == "affinity":
            return balance.conversation_key(call.view.messages) if len(self.all) > 1 else 0
        self._turn += self._order == "in_turn"
        return self._turn

    def pick(self, members: Sequence[Member], key: int, tried: Collection[Member]) -> tuple[Member, int] | None:
        """Of those that let a request in and were not tried, the next one, and its breaker's ticket."""
        now = time.monotonic()
        free = [each for each in members if each not in tried and each.breaker.is_ready(now)]
        if not free:
            return None
        if len(free) == 1:
            member = free[0]
        elif self._order == "affinity":
            place, is_own = balance.choose([each.load for each in free], key, now)
            member = free[place]
            if not is_own:
                self._metrics.affinity_missed.inc()
        else:
            size = len(members)
            member = min(free, key=lambda each: (each.index - key) % size)
        ticket = member.breaker.enter(now)
        return None if ticket is None else (member, ticket)

    def trusted(self) -> list[Member]:
        """Those whose breaker is closed; where they are no equals, the first alone."""
        equals = self.all[:1] if self._order == "first" else self.all
        return [each for each in equals if each.breaker.state == "closed"]

    def left(self, member: Member, ticket: int, worked: bool | None) -> None:
        """How a request ended; None where that says nothing of the upstream."""
        now = time.monotonic()
        if member.breaker.leave(ticket, worked, now):
            if member.breaker.state == "closed":
                member.load.since = now
            self._changed(member)
        elif worked is False:
            self._eject_if_outlier(member, now)

    def broke(self, member: Member) -> None:
        """A request that was told as one that worked has failed later."""
        now = time.monotonic()
        if member.breaker.broke(now):
            self._changed(member)
        else:
            self._eject_if_outlier(member, now)

    def opens_in(self) -> float:
        """Seconds until one of them may be asked again."""
        now = time.monotonic()
        return min((member.breaker.opens_in(now) for member in self.all), default=0.0)

    def show(self, member: Member) -> None:
        """In the metrics."""
        name, index = member.upstream.name, str(member.index)
        self._metrics.breaker_open.labels(name, index).set(member.breaker.state != "closed")
        self._metrics.upstream_in_flight.labels(name, index).set_function(_in_flight(member.load))

    def _eject_if_outlier(self, member: Member, now: float) -> None:
        """Leave alone who fails more often than its equals do, though less than a breaker takes by itself."""
        if self._order != "affinity" or member.breaker.state != "closed" or member not in self.all:
            return
        closed = [each for each in self.all if each.breaker.state == "closed"]
        if not balance.may_eject(len(self.all), len(self.all) - len(closed)):
            return
        others = [each.breaker.counts(now) for each in closed if each is not member]
        if balance.is_outlier(member.breaker.counts(now), others):
            member.breaker.trip(now)
            self._changed(member)

    def _changed(self, member: Member) -> None:
        self.show(member)
        name, state = member.upstream.name, member.breaker.state
        log.warning("breaker_changed", upstream=name, index=member.index, state=state)


def _in_flight(load: Load) -> Callable[[], float]:
    return lambda: float(load.in_flight)
