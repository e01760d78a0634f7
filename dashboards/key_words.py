"""Keys in words: what one spent against its budgets, what bounds it, when it ends, when it was used last."""

from decimal import Decimal
from typing import Final

from dashboards import words
from ledger.key_list import State
from ledger.keys import Key
from ledger.policies import KeyPolicy
from ledger.records import nano

__all__ = ("SCOPES", "STATES", "amount", "bounds", "ending", "spent_of", "used")

STATES: Final[dict[State, str]] = {"active": "active", "expired": "expired", "revoked": "revoked"}
SCOPES: Final = {
    "inference": "asks models",
    "read": "sees figures here and by /admin/v1",
    "admin": "may do everything, see content and make keys too",
}


def amount(value: float | None) -> str:
    """A budget in currency units, as a form's field has it."""
    return "" if value is None else f"{Decimal(str(value)).normalize():f}"


def spent_of(spent_nano: int, budget: float | None) -> str:
    """What was spent, of the budget where there is one, and which share that is."""
    spent = words.money(spent_nano)
    if budget is None:
        return spent
    whole = nano(budget)
    share = f", {spent_nano / whole:.0%}" if whole else ""
    return f"{spent} of {words.money(whole)}{share}"


def bounds(policy: KeyPolicy) -> str:
    """Its limits and what it may ask, as far as they are its own."""
    said = [
        f"{value:,} {unit}"
        for value, unit in (
            (policy.requests_per_minute, "requests a minute"),
            (policy.tokens_per_minute, "tokens a minute"),
            (policy.max_concurrent, "at once in each process"),
        )
        if value is not None
    ]
    if policy.models is not None:
        said.append("models " + (", ".join(policy.models) or "none"))
    if policy.routes is not None:
        said.append("routes " + (", ".join(policy.routes) or "none"))
    if policy.default_route != "auto":
        said.append(f"auto means {policy.default_route}")
    if not policy.log_content:
        said.append("no content kept")
    return "; ".join(said) or words.NOTHING


def ending(key: Key) -> str:
    """When it ends, or did."""
    if key.revoked_at is not None:
        return f"revoked {words.when(key.revoked_at)}"
    return "never" if key.expires_at is None else words.when(key.expires_at)


def used(hour: int | None) -> str:
    """The hour of its last request, by the hourly sums."""
    return "not in 90 days" if hour is None else words.when(hour).replace(":00:00 UTC", ":00 UTC")
