"""Requests and tokens per minute and key, counted in this process, and the headers that tell of it.

GCRA in its other form, the leaky bucket as a meter (ITU-T I.371): what was used drains evenly, and a request passes
if it fits on top. All numbers are integers, so that no rounding drifts.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import RateLimited

__all__ = ("MAX_KEYS", "MINUTE_NS", "RateLimit")

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
        used = self._drained(key_id, per_minute, now)
        full, added = per_minute * MINUTE_NS, amount * MINUTE_NS
        passes = used + added <= full
        if passes:
            used += added
        self._keep(key_id, used, now)
        limit, remaining, reset = HEADERS[self.kind]
        headers = {
            limit: str(per_minute),
            remaining: str(max(0, full - used) // MINUTE_NS),
            reset: f"{used / per_minute / S:.3f}s",
        }
        if passes:
            return headers
        if added > full:
            message = (
                f"Request too large: it asks for {amount} {self.kind}, and the limit is {per_minute} per minute."
            )
            raise RateLimited(message, headers=headers)
        seconds = -(-(used + added - full) // (per_minute * S))
        message = f"Rate limit reached: {per_minute} {self.kind} per minute. Try again in {seconds}s."
        raise RateLimited(message, headers=headers | {"retry-after": str(seconds)})

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
