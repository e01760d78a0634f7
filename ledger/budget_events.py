"""Says when a key has spent most of a budget, and when all of it: once for each period, whoever looks."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from ledger import keys, outbox
from ledger.keys import Key
from ledger.records import NANO, nano
from ledger.spending import NOTHING_SPENT, Periods, SpendReader, Spent
from ledger.store import Store

__all__ = ("MOST", "say_crossings")

MOST: Final = 0.8
"""Share of a budget at which ``budget.warning`` is said; at all of it ``budget.exhausted``."""


def say_crossings(store: Store, reader: SpendReader, now: int, said: set[str]) -> None:
    """Put a message in the outbox for each key and period whose spend crossed a mark at a time (ms).

    Of what the store has: requests in flight are not in it. ``said`` is what this process knows to be said, and is
    added to; the names of messages keep other processes from saying it again.
    """
    # while a key is rotated both its secrets are active
    found = {key.id: key for key in keys.load_active(store).values() if key.policy.has_budget}
    if not found:
        return
    spent = reader.read(sorted(found), now, dict[str, int]).spent
    new = {
        name: (kind, key.id, data)
        for key in found.values()
        for name, kind, data in _crossed(key, spent.get(key.id, NOTHING_SPENT), Periods.at(now))
        if name not in said
    }
    if not new:
        return
    with store.write() as connection:
        for name, (kind, key_id, data) in new.items():
            outbox.put(connection, kind, key_id, data, once=name)
    said.update(new)


def _crossed(key: Key, spent: Spent, periods: Periods) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for period, begin, used, budget in (
        ("day", periods.day, spent.day, key.policy.budget_day),
        ("month", periods.month, spent.month, key.policy.budget_month),
    ):
        # a budget of nothing is a key that is shut, and no news
        if not budget or used < MOST * nano(budget):
            continue
        kind = "budget.exhausted" if used >= nano(budget) else "budget.warning"
        data = {
            "key": key.id,
            "name": key.name,
            "period": period,
            "since": datetime.fromtimestamp(begin / 1000, UTC).isoformat(),
            "spent": str(Decimal(used) / NANO),
            "budget": str(Decimal(nano(budget)) / NANO),
        }
        # another budget for the same period is another mark
        yield f"{kind}\0{key.id}\0{period}\0{begin}\0{nano(budget)}", kind, data
