"""What a key may do: its policy, checked field by field, kept as JSON with the key."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from ledger.store import now_ms

__all__ = ("FIELDS", "UNBOUND", "KeyPolicy", "PolicyError", "expiry", "name_of", "policy_of", "read_policy")

# PostgreSQL's text has no NUL
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
Tag = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00,]+$")]
Route = Literal["student", "teacher"]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Money = Annotated[float, Meta(ge=0, le=1_000_000_000)]


class PolicyError(ValueError):
    """A policy, a name or an expiry that cannot be taken. ``field`` says which one, if it is one."""

    def __init__(self, field: str | None, why: str) -> None:
        super().__init__(f"{field}: {why}" if field else why)
        self.field = field


class KeyPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every field is optional; the defaults allow what the settings allow. Money is in currency units, periods are
    those of UTC.
    """

    owner: Name | None = None
    """Who answers for the key."""
    tags: Annotated[tuple[Tag, ...], Meta(max_length=20)] = ()
    """Added to the tags of every request."""
    models: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=1_000)] | None = None
    """The names that may be sent as ``model``, aliases among them; None: all."""
    routes: Annotated[tuple[Route, ...], Meta(min_length=1, max_length=2)] | None = None
    """The routes that may answer; None: both."""
    default_route: Literal["auto", "student", "teacher"] = "auto"
    """What ``auto`` means for this key."""
    requests_per_minute: Count | None = None
    """None: the settings' limit; 0: none."""
    tokens_per_minute: Count | None = None
    """None: the settings' limit; 0: none."""
    max_concurrent: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Requests in flight at once, in each gateway process."""
    budget_day: Money | None = None
    """Spend of a day."""
    budget_month: Money | None = None
    """Spend of a calendar month."""
    budget_kind: Literal["hard", "soft"] = "hard"
    """What a spent budget does: ``hard`` refuses, ``soft`` lets the student answer."""
    log_content: bool = True
    """False keeps no content of this key's requests."""

    @property
    def has_budget(self) -> bool:
        """Whether its spend is counted."""
        return self.budget_day is not None or self.budget_month is not None


FIELDS: Final = KeyPolicy.__struct_fields__
UNBOUND: Final = KeyPolicy()
"""Of a key without a policy, and of a caller without a key."""
NOTHING: Final = KeyPolicy(models=(), routes=())
PATH: Final = re.compile(r"(.*) - at `\$\.(\w+).*`|.*unknown field `(\w+)`")


def policy_of(values: Mapping[str, Any]) -> KeyPolicy:
    """A policy from what a person or a program gave; None stands for a field's default.

    Raises `PolicyError`.
    """
    try:
        policy = msgspec.convert({name: value for name, value in values.items() if value is not None}, KeyPolicy)
    except msgspec.ValidationError as error:
        raise _named(error) from error
    if policy.routes is not None and policy.default_route not in ("auto", *policy.routes):
        raise PolicyError("default_route", f"{policy.default_route} is not among the routes of this key")
    return policy


def read_policy(stored: Any) -> KeyPolicy:
    """A policy from the store. One that cannot be read (a newer version's) allows nothing, rather than everything."""
    try:
        return msgspec.convert(stored, KeyPolicy)
    except msgspec.ValidationError:
        return NOTHING


def name_of(text: str) -> str:
    """A key's name, checked. Raises `PolicyError`."""
    try:
        return msgspec.convert(text, Name)
    except msgspec.ValidationError as error:
        raise PolicyError("name", str(error)) from error


def expiry(value: str | float) -> int:
    """A time to come, in ms since the epoch, from RFC 3339 or Unix seconds. Raises `PolicyError`."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = _rfc3339(str(value))
    if not now_ms() / 1000 < seconds < 1e11:
        raise PolicyError("expires_at", "must be a time to come")
    return round(seconds * 1000)


def _rfc3339(text: str) -> float:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        why = "must be a time as in 2030-01-31T12:00:00Z, or seconds since 1970"
        raise PolicyError("expires_at", why) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _named(error: msgspec.ValidationError) -> PolicyError:
    found = PATH.fullmatch(str(error))
    if found is None:
        return PolicyError(None, str(error))
    if found[3]:
        return PolicyError(found[3], f"is not a field of a policy; these are: {', '.join(FIELDS)}")
    return PolicyError(found[2], found[1])
