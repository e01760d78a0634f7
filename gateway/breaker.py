"""A circuit breaker: an upstream that fails too often is left alone for a while, then tried with one request.

Pure: the time is given, in seconds of any clock that does not go back. Not thread-safe; one event loop owns it.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

__all__ = ("CONSECUTIVE", "MAX_OPEN_S", "MIN_REQUESTS", "OPEN_S", "WINDOW_S", "Breaker", "State")

WINDOW_S: Final = 10
"""Requests that ended in the last so many whole seconds are judged."""
MIN_REQUESTS: Final = 10
"""Fewer in the window say nothing of a share."""
FAILED_SHARE: Final = 0.5
CONSECUTIVE: Final = 5
"""So many failures in a row open it, however few requests there are."""
OPEN_S: Final = 5.0
MAX_OPEN_S: Final = 60.0
JITTER: Final = 0.2
"""An open time is up to this share shorter, so that many gateways do not probe at once."""

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Ask `enter` before a request, and tell `leave` how it ended.

    A request that was let in before the last change of state says nothing about the present one: tickets tell them
    apart.
    """

    __slots__ = ("_buckets", "_failed", "_in_a_row", "_opened", "_probing", "_random", "_requests", "_ticket",
                 "_until", "state")  # fmt: skip

    def __init__(self, uniform: Callable[[], float] = random.random) -> None:
        self.state: State = "closed"
        self._random = uniform
        self._buckets: deque[list[int]] = deque()
        """Of each second: the second, its requests, its failures."""
        self._requests = self._failed = self._in_a_row = 0
        self._opened = 0
        """How often it has opened since it was closed."""
        self._until = 0.0
        self._probing = False
        self._ticket = 0

    def enter(self, now: float) -> int | None:
        """A ticket for one request, or None while none is let through."""
        if self.state == "closed":
            return self._ticket
        if not self.is_ready(now):
            return None
        self._change("half_open")
        self._probing = True
        return self._ticket

    def is_ready(self, now: float) -> bool:
        """Whether `enter` would let a request through."""
        return self.state == "closed" or (now >= self._until and not self._probing)

    def leave(self, ticket: int, worked: bool | None, now: float) -> bool:
        """How the ticket's request ended; None where that says nothing. True when the state changed by it."""
        if ticket != self._ticket:
            return False
        if self.state == "half_open":
            self._probing = False
            if worked is None:
                return False
            self._close() if worked else self._open(now)
            return True
        return worked is not None and self._count(worked, now)

    def broke(self, now: float) -> bool:
        """A request that had begun to be answered, and was told as one that worked, failed later. As `leave`."""
        return self.state == "closed" and self._count(False, now)

    def trip(self, now: float) -> None:
        """Open it for a reason of the caller's own."""
        if self.state == "closed":
            self._open(now)

    def counts(self, now: float) -> tuple[int, int]:
        """The requests of the window, and how many of them failed."""
        self._forget(int(now) - WINDOW_S)
        return self._requests, self._failed

    def opens_in(self, now: float) -> float:
        """Seconds until a request may be let through again, if no probe is under way."""
        return 0.0 if self.state == "closed" else max(0.0, self._until - now)

    def _count(self, worked: bool, now: float) -> bool:
        second = int(now)
        buckets = self._buckets
        if not buckets or buckets[-1][0] != second:
            self._forget(second - WINDOW_S)
            buckets.append([second, 0, 0])
        bucket = buckets[-1]
        bucket[1] += 1
        self._requests += 1
        if worked:
            self._in_a_row = 0
            return False
        bucket[2] += 1
        self._failed += 1
        self._in_a_row += 1
        many = self._requests >= MIN_REQUESTS and self._failed >= FAILED_SHARE * self._requests
        if many or self._in_a_row >= CONSECUTIVE:
            self._open(now)
            return True
        return False

    def _forget(self, until: int) -> None:
        while self._buckets and self._buckets[0][0] <= until:
            _, requests, failed = self._buckets.popleft()
            self._requests -= requests
            self._failed -= failed

    def _open(self, now: float) -> None:
        longest = min(MAX_OPEN_S, OPEN_S * 2.0 ** min(self._opened, 10))
        self._until = now + longest * (1 - JITTER * self._random())
        self._opened += 1
        self._change("open")

    def _close(self) -> None:
        self._opened = self._requests = self._failed = self._in_a_row = 0
        self._buckets.clear()
        self._change("closed")

    def _change(self, state: State) -> None:
        self.state = state
        self._ticket += 1
