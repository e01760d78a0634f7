"""Requests per minute and key, by a token bucket in this process, and the headers that tell of it."""

import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import RateLimited

__all__ = ("RequestLimit",)

MAX_KEYS: Final = 10_000


@dataclass
class RequestLimit:
    """``per_minute`` requests, refilled evenly. 0 sets no limit. Least recently seen keys are forgotten first."""

    per_minute: int
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict[str, tuple[float, float]])

    def take(self, key_id: str, now: float | None = None) -> dict[str, str]:
        """Count a request of this key at a monotonic time (s) and return OpenAI's headers.

        Raises `RateLimited` with ``retry-after`` when none is left.
        """
        if not self.per_minute:
            return {}
        now = time.monotonic() if now is None else now
        rate = self.per_minute / 60
        left, at = self._buckets.pop(key_id, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - at) * rate)
        allowed = left >= 1
        left -= allowed
        self._buckets[key_id] = (left, now)
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        headers = {
            "x-ratelimit-limit-requests": str(self.per_minute),
            "x-ratelimit-remaining-requests": str(int(left)),
            "x-ratelimit-reset-requests": f"{(self.per_minute - left) / rate:.3f}s",
        }
        if not allowed:
            retry_after = str(math.ceil((1 - left) / rate))
            message = f"Rate limit reached: {self.per_minute} requests per minute. Try again in {retry_after}s."
            raise RateLimited(message, headers=headers | {"retry-after": retry_after})
        return headers
