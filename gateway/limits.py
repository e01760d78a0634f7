"""Requests and tokens per minute and key, counted in this process, and the headers that tell of it.

GCRA in its other form, the leaky bucket as a meter (ITU-T I.371): what was used drains evenly, and a request passes
if it fits on top. All numbers are integers, so that no rounding drifts.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import RateLimited

__all__ = ("MAX_KEYS", "MINUTE_NS", "RateLimit", "headers_of", "refusal", "too_many")

MAX_KEYS: Final = 10_000
MINUTE_NS: Final = 60_000_000_000
S: Final = 1_000_000_000
HEADERS: Final = {
    kind: tuple(f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}


@dataclass
class RateLimit:
    """Per minute, of one kind (``requests`` or ``tokens``). Least recently seen keys are forgotten first."""

    kind: str
    _used: OrderedDict[str, tuple[int, int]] = field(default_factory=OrderedDict[str, tuple[int, int]])
    """By key: what was used, in units of 1/60e9, and the monotonic time (ns) of that. The limit drains per ns."""

    def take(self, key_id: str, per_minute: int, amount: int, now: int) -> dict[str, str]:
        """Count ``amount`` for this key at a monotonic time (ns) and return OpenAI's headers.

        Raises `RateLimited`: with ``retry-after``, but for an amount that would never pass.
        """
        used, added = self._drained(key_id, per_minute, now), amount * MINUTE_NS
        passes = used + added <= per_minute * MINUTE_NS
        if passes:
            used += added
        self._keep(key_id, used, now)
        if passes:
            return headers_of(self.kind, per_minute, used)
        raise refusal(self.kind, per_minute, amount, used)

    def correct(self, key_id: str, per_minute: int, amount: int, now: int) -> None:
        """Count ``amount`` more, or less where it is negative, of what has been taken already."""
        used = self._drained(key_id, per_minute, now) + amount * MINUTE_NS
        self._keep(key_id, max(0, used), now)

    def _drained(self, key_id: str, per_minute: int, now: int) -> int:
        used, at = self._used.pop(key_id, (0, now))
        used -= (now - at) * per_minute
        return max(0, used)

    def _keep(self, key_id: str, used: int, now: int) -> None:
        self._used[key_id] = (used, now)
        if len(self._used) > MAX_KEYS:
            self._used.popitem(last=False)


def headers_of(kind: str, per_minute: int, used: int) -> dict[str, str]:
    """OpenAI's headers, by what is used, in units of 1/60e9."""
    limit, remaining, reset = HEADERS[kind]
    return {
        limit: str(per_minute),
        remaining: str(max(0, per_minute * MINUTE_NS - used) // MINUTE_NS),
        reset: f"{used / per_minute / S:.3f}s",
    }


def refusal(kind: str, per_minute: int, amount: int, used: int) -> RateLimited:
    """Of an amount that does not fit on what is used."""
    headers, added, full = headers_of(kind, per_minute, used), amount * MINUTE_NS, per_minute * MINUTE_NS
    if added > full:
        message = f"Request too large: it asks for {amount} {kind}, and the limit is {per_minute} per minute."
        return RateLimited(message, headers=headers)
    seconds = -(-(used + added - full) // (per_minute * S))
    message = f"Rate limit reached: {per_minute} {kind} per minute. Try again in {seconds}s."
    return RateLimited(message, headers=headers | {"retry-after": str(seconds)})


def too_many(most: int) -> RateLimited:
    """A key's requests at once."""
    message = f"This key may have {most} requests in flight at once. Try again in 1s."
    return RateLimited(message, headers={"retry-after": "1"})
