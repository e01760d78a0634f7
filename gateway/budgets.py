"""Spend against the budgets of keys: what the store holds, what this process recorded since, what is in flight.

Between a record and the store nothing counts twice or not at all: a record is pending from the moment it is made
until a reading of the store has found its row, in the same transaction as the sums that it is then a part of. Other
processes' requests are seen when they are in the store, within a second; by `gateway.shared_limits` at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.shared_limits import Money, SharedLimits
from ledger.keys import Key
from ledger.records import RequestRecord, nano
from ledger.requests import HOUR_MS
from ledger.spending import NOTHING_SPENT, Periods, Reading, SpendReader, Spent
from ledger.store import now_ms

__all__ = ("Budgets",)

MAX_PENDING: Final = 50_000
"""Of more, while the store is away, only sums per key and hour are kept."""
FOLDED: Final = "folded "


@dataclass(slots=True)
class Account:
    """One key's money, in nano-units."""

    stored: Spent = NOTHING_SPENT
    pending: Spent = NOTHING_SPENT
    reserved: int = 0


class Pending(msgspec.Struct, frozen=True):
    """A record that no reading has found in the store."""

    key_id: str
    created_at: int
    cost: int


@dataclass
class Budgets:
    """The accounts of the keys that have a budget. `read` runs in the refreshing thread, all else on the loop."""

    reader: SpendReader
    shared: SharedLimits | None = None
    """Where other gateways' requests are seen at once."""
    _versions: dict[str, str] = field(default_factory=dict[str, str])
    _accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    _pending: dict[str, Pending] = field(default_factory=dict[str, Pending])
    _periods: Periods = field(default_factory=lambda: Periods.at(now_ms()))

    # from the store

    def read(self, keys: Iterable[Key]) -> Reading | None:
        """The spend of those keys that have a budget; None if none has. Blocks; raises the store's error."""
        ids = sorted({key.id for key in keys if key.policy.has_budget})
        if not ids:
            return None
        if self.shared is not None:
            self._versions = self.shared.versions()
        return self.reader.read(ids, now_ms(), self._created)

    def apply(self, reading: Reading | None) -> None:
        """Take a reading in."""
        if reading is None:
            self._accounts, self._pending = {}, {}
            return
        own = [request_id for request_id in reading.stored if self._pending.pop(request_id, None) is not None]
        if own:
            # the spool is read in order: what was folded is older than what was found
            self._pending = {k: v for k, v in self._pending.items() if not k.startswith(FOLDED)}
        old = self._accounts
        self._accounts = {
            key_id: Account(spent, reserved=old[key_id].reserved if key_id in old else 0)
            for key_id, spent in reading.spent.items()
        }
        self._periods = reading.periods
        self._count_pending()
        if self.shared is not None:
            self.shared.apply(reading, self._versions)

    # of requests

    def has_room(self, key: Key, now: int) -> bool:
        """Whether what this key spent and reserved is below each of its budgets, at a time (ms)."""
        of_day, of_month = self.used(key.id, now)
        day, month = key.policy.budget_day, key.policy.budget_month
        return (day is None or of_day < nano(day)) and (month is None or of_month < nano(month))

    def used(self, key_id: str, now: int) -> tuple[int, int]:
        """What a key spent and reserved of its day and of its month."""
        if now >= self._periods.day_end:
            self._turn(now)
        account = self._accounts.get(key_id)
        if account is None:
            account = self._accounts[key_id] = Account()
        stored, pending, reserved = account.stored, account.pending, account.reserved
        return stored.day + pending.day + reserved, stored.month + pending.month + reserved

    def reserve(self, key_id: str, amount: int) -> None:
        """Hold money for a request; a negative amount gives it back."""
        account = self._accounts.get(key_id)
        if account is not None:
            account.reserved = max(0, account.reserved + amount)

    def money(self, key: Key, amount: int) -> Money:
        """What a request of this key takes of its budgets, and what the store has of them."""
        account, periods = self._accounts.get(key.id) or Account(), self._periods
        of_day, of_month = (
            -1 if budget is None else nano(budget) for budget in (key.policy.budget_day, key.policy.budget_month)
        )
        stored = account.stored
        return Money(amount, of_day, of_month, periods.day, stored.day, periods.month, stored.month)

    def recorded(self, record: RequestRecord) -> None:
        """A request was recorded. Its cost is pending until the store has it."""
        account = self._accounts.get(record.key_id or "")
        if account is None or not record.cost_nano or record.id in self._pending:
            return
        if self.shared is not None:
            self.shared.settled(record)
        made = Pending(record.key_id or "", record.created_at, record.cost_nano)
        self._pending[record.id] = made
        account.pending = _with(account.pending, made, self._periods)
        if len(self._pending) > MAX_PENDING:
            self._fold()

    def _created(self) -> Mapping[str, int]:
        others = self.shared.opened() if self.shared is not None else {}
        # copied in one step, since the loop goes on adding
        return others | {request_id: made.created_at for request_id, made in list(self._pending.items())}

    def _turn(self, now: int) -> None:
        """A day began, and a month perhaps, before the store told what was spent in it."""
        periods = Periods.at(now)
        for account in self._accounts.values():
            month = account.stored.month if periods.month == self._periods.month else 0
            account.stored = Spent(0, month)
        self._periods = periods
        self._count_pending()

    def _count_pending(self) -> None:
        self._pending = {k: made for k, made in self._pending.items() if made.created_at >= self._periods.month}
        for account in self._accounts.values():
            account.pending = NOTHING_SPENT
        for made in self._pending.values():
            account = self._accounts.get(made.key_id)
            if account is not None:
                account.pending = _with(account.pending, made, self._periods)

    def _fold(self) -> None:
        oldest = next(request_id for request_id in self._pending if not request_id.startswith(FOLDED))
        made = self._pending.pop(oldest)
        hour = made.created_at // HOUR_MS * HOUR_MS
        name = f"{FOLDED}{made.key_id} {hour}"
        before = self._pending.get(name)
        self._pending[name] = Pending(made.key_id, hour, made.cost + (before.cost if before else 0))


def _with(spent: Spent, made: Pending, periods: Periods) -> Spent:
    of_day = made.cost if made.created_at >= periods.day else 0
    of_month = made.cost if made.created_at >= periods.month else 0
    return Spent(spent.day + of_day, spent.month + of_month)
