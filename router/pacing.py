"""Keeps the teacher's share of the requests, or what a day of it costs, at a ceiling.

A request is escalated where what the teacher is expected to add, 1 - p, is worth the price of the moment. That is
the dual variable of the ceiling, and follows the gap between what was used and the even pace (adaptive pacing:
Balseiro and Gur 2019, doi:10.1287/mnsc.2018.3174), so that those are kept from the teacher that need it least.
Everything is counted when it is decided, at its expected cost: a price that waited for answers would swing.
"""

from dataclasses import dataclass, field
from typing import Final

__all__ = ("BANK", "STEP", "Pacer")

DAY_S: Final = 86_400.0
STEP: Final = 0.02
"""What one request over the pace adds to the price; 1 is the price at which nothing is worth it."""
BANK: Final = 50.0
"""Requests by which the pace may be ahead before there is a price: no ordinary unevenness is refused."""
DEBT: Final = 1.0 / STEP + 1.0
"""Past it a price can refuse no more than everything."""
SHOWN: Final = 1_000
"""Requests that the shown share is the average of, the newer ones more."""
COSTS: Final = 100
"""Requests that the typical cost is the average of, the newer ones more."""


@dataclass(slots=True)
class _Dual:
    """The price of one ceiling. ``debt`` is in requests over (or, below 0, under) the even pace."""

    debt: float = 0.0

    def move(self, requests: float) -> None:
        self.debt = min(max(self.debt + requests, -BANK), DEBT)

    @property
    def price(self) -> float:
        return max(STEP * self.debt, 0.0)


@dataclass(slots=True)
class Pacer:
    """Two ceilings, each of them in force unless None. They may be changed at any time.

    ``max_share`` bounds the teacher's share of the requests that `came`: of any T of them in a row it is asked for
    at most ``max_share`` * T + `BANK` + 1 / `STEP` + 1, whatever the traffic, beside those that only it could do.
    ``max_spend_per_day`` is money of a day in UTC; nothing is allowed that would go past it. Costs are in that money,
    times in seconds since the epoch. Not for several threads at once.
    """

    max_share: float | None = None
    max_spend_per_day: float | None = None
    part: float = 1.0
    """Of the money's even pace, that is this process's; the others keep the rest."""
    teacher_share: float = 0.0
    """Of about the last `SHOWN` requests."""
    typical_cost: float = 0.0
    """Of a request that the teacher answered; 0 before the first."""
    spent_today: float = 0.0
    """With what is expected of the answers under way."""
    _came: int = 0
    _share: _Dual = field(default_factory=_Dual)
    _spend: _Dual = field(default_factory=_Dual)
    _day_end: float = 0.0
    _seen_until: float = 0.0

    @property
    def share_price(self) -> float:
        """Least expected gain, of 1, that a request goes to the teacher for; 0 while the ceiling is not reached."""
        return self._share.price if self.max_share is not None else 0.0

    @property
    def spend_price(self) -> float:
        """The same for a request of typical cost, by the ceiling of the day."""
        return self._spend.price if self.max_spend_per_day is not None else 0.0

    def begin(self, spent_today: float, now: float) -> None:
        """Take in what the ledger says was spent today: at the start, and again for what other processes spend."""
        self._pass_time(now)
        # the ledger does not have yet what is under way here
        self.spent_today = max(self.spent_today, spent_today)

    def came(self) -> None:
        """One more request whose route is ours to choose, whichever it takes."""
        self._came = min(self._came + 1, SHOWN)
        self.teacher_share -= self.teacher_share / self._came
        self._share.move(-(self.max_share if self.max_share is not None else 1.0))

    def allows(self, p: float, cost: float, now: float) -> bool:
        """Whether a request may go to the teacher, counted at once if so.

        ``p`` is the probability that the student's answer will do, by the score or the confidence; ``cost`` what the
        teacher's is expected to cost.
        """
        self._pass_time(now)
        gain = 1.0 - p
        if gain < self.share_price:
            return False
        if self.max_spend_per_day is not None and cost > 0:
            if self.spent_today + cost > self.max_spend_per_day:
                return False
            if gain < self._spend.price * cost / (self.typical_cost or cost):
                return False
        self._count(cost)
        return True

    def spent(self, cost: float, now: float, is_ours: bool = True) -> None:
        """The teacher is asked without asking here: only it can, or the client says so (then not ``is_ours``)."""
        self._pass_time(now)
        self._count(cost, is_ours)

    def settle(self, expected: float, actual: float) -> None:
        """A request that was counted at ``expected`` has cost ``actual``."""
        self.spent_today += actual - expected
        if actual <= 0:
            return
        self.typical_cost += (actual - self.typical_cost) / COSTS if self.typical_cost else actual
        self._spend.move((actual - expected) / self.typical_cost)

    def _count(self, cost: float, is_ours: bool = True) -> None:
        if is_ours:
            self.teacher_share += 1.0 / max(self._came, 1)
            self._share.move(1.0)
        self.spent_today += cost
        scale = self.typical_cost or cost
        if scale > 0:
            self._spend.move(cost / scale)

    def _pass_time(self, now: float) -> None:
        """Time earns what is left of the day's money, evenly until its end: so a wrong pace corrects itself."""
        if now >= self._day_end:
            day = now // DAY_S * DAY_S
            self.spent_today, self._day_end, self._seen_until = 0.0, day + DAY_S, max(self._seen_until, day)
        passed = now - self._seen_until
        if passed <= 0:
            return
        if self.max_spend_per_day is not None and self.typical_cost > 0:
            left = max(self.max_spend_per_day - self.spent_today, 0.0)
            self._spend.move(-self.part * left * passed / (self._day_end - self._seen_until) / self.typical_cost)
        self._seen_until = now
