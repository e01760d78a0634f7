"""Which of several equal servers a conversation goes to: its own, unless that has its share; then the one that has
the least to do.

Its own is found by rendezvous hashing of how the conversation begins: every turn finds the same server, in every
gateway, and with it the keys and values that vLLM has kept of the turns before; a server that comes or goes moves
only what it takes or leaves. The bound on the load keeps one beginning that all share from being one server's
(consistent hashing with bounded loads, arXiv:1608.01350). It also turns from a server that is slow, since what it has
piles up.

Pure: the time is given, in seconds of any clock that does not go back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from zlib import crc32

__all__ = ("Counts", "Load", "choose", "conversation_key", "is_outlier", "may_eject", "salt_of")

LEADING: Final = 1024
"""So many characters of a message tell where it goes: those that begin with as much in common go the same way."""
FACTOR: Final = 1.5
"""A server has at most so many times the mean of what is under way."""
AT_ONCE: Final = 4
"""So few requests are no load: they are read in one batch."""
SLOW_START_S: Final = 30.0
"""A server that joined others has its whole share after so long."""
LEAST: Final = 0.1
"""And this share of it at first."""
ENOUGH: Final = 10
"""Fewer requests in the breaker's window say nothing of a share."""
FAILED: Final = 3
OUTLYING_SHARE: Final = 0.1
TIMES: Final = 3.0
"""An outlier fails so many times as often as the others together, and at `OUTLYING_SHARE` of what it is asked."""

PRIME: Final = 2**61 - 1

Counts = tuple[int, int]
"""Requests and failures, as `Breaker.counts` gives them."""


@dataclass(eq=False, slots=True)
class Load:
    """One server as one gateway process knows it."""

    salt: int
    """`salt_of` its address."""
    since: float = float("-inf")
    """When it joined the others, or came back to them."""
    in_flight: int = 0

    def weight(self, now: float) -> float:
        """Its part of a whole share."""
        age = now - self.since
        return 1.0 if age >= SLOW_START_S else max(LEAST, age / SLOW_START_S)


def conversation_key(messages: Sequence[tuple[str, str]]) -> int:
    """Of how a conversation begins: all up to its first message of a user. The same in every process."""
    leading: list[str] = []
    for role, text in messages:
        leading.append(text[:LEADING])
        if role == "user":
            break
    return crc32("\0".join(leading).encode("utf-8", "surrogatepass"))


def salt_of(address: str) -> int:
    """What makes servers draw differently, in every process alike."""
    return int.from_bytes(blake2b(address.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") % PRIME


def choose(loads: Sequence[Load], key: int, now: float) -> tuple[int, bool]:
    """The place in ``loads`` of who is asked, and whether that is the conversation's own."""
    # a product by a prime is even enough over the servers, and the cheapest: 0.1 us
    drawn = [(key + 1) * load.salt % PRIME for load in loads]
    own = drawn.index(max(drawn))
    weights = [load.weight(now) for load in loads]
    share = FACTOR * (1 + sum(load.in_flight for load in loads)) / sum(weights)
    if loads[own].in_flight < max(1.0, max(share, AT_ONCE) * weights[own]):
        return own, True
    least = min(range(len(loads)), key=lambda each: (loads[each].in_flight / weights[each], -drawn[each]))
    return least, least == own


def is_outlier(own: Counts, others: Sequence[Counts]) -> bool:
    """Whether a server fails much more often than those that are asked the like."""
    (requests, failed), asked, failures = own, sum(each[0] for each in others), sum(each[1] for each in others)
    if requests < ENOUGH or failed < FAILED or asked < ENOUGH:
        return False
    return failed / requests >= max(OUTLYING_SHARE, TIMES * failures / asked)


def may_eject(servers: int, ejected: int) -> bool:
    """Whether another outlier may be left alone: at most half are, or the rest would have to do twice their work."""
    return 2 * (ejected + 1) <= servers
