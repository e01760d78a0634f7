"""Who is let in, and to what: permission, concurrency, requests and tokens per minute, budget, in this order.

A request is a `Visit` from its head to its answer's last byte. `Visit.admit` takes a slot and reserves the estimated
tokens and money; its ledger record settles them (`Admission.settle`); `Visit.leave` gives back what is still held.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.budgets import Budgets
from gateway.errors import PermissionDenied, QuotaExceeded, RateLimited
from gateway.limits import RateLimit, too_many
from gateway.settings import GatewaySettings
from gateway.shared_limits import Money, SharedLimits, Wanted
from ledger.keys import Key
from ledger.policies import UNBOUND, KeyPolicy
from ledger.prices import Price, Tokens
from ledger.records import RequestRecord
from ledger.store import now_ms

__all__ = ("Admission", "Ask", "Visit", "may_use")

NO_TOKENS: Final = Tokens()
NO_MONEY: Final = Money()
NO_PRICES: Final[Mapping[str, Price]] = MappingProxyType({})


def _no() -> bool:
    return False


class Ask(msgspec.Struct, frozen=True):
    """What a request wants. The default, of a request that no model answers, is only counted."""

    model: str | None = None
    """The client's name of it."""
    target: str = "auto"
    tokens: Tokens = NO_TOKENS
    """As estimated before it is asked."""
    prices: Mapping[str, Price] = NO_PRICES
    """Of each route that may answer it."""
    student_can: Callable[[], bool] = _no
    """Whether the request is one that a student can take."""
    student_is_live: bool = False


@dataclass
class Admission:
    """The counts of this process. ``settings`` may be replaced while it runs."""

    settings: GatewaySettings
    budgets: Budgets
    clock: Callable[[], int] = time.monotonic_ns
    in_flight: int = 0
    shared: SharedLimits | None = None
    """Where the gateways count together, if they do."""
    _of_key: dict[str, int] = field(default_factory=dict[str, int])
    _requests: RateLimit = field(default_factory=lambda: RateLimit("requests"))
    _tokens: RateLimit = field(default_factory=lambda: RateLimit("tokens"))
    _unsettled: dict[str, "Visit"] = field(default_factory=dict[str, "Visit"])

    def enter(self, request_id: str, key: Key | None) -> "Visit":
        """Let a request in before its body is read. Raises `RateLimited` where the gateway has all it can hold."""
        if self.in_flight >= self.settings.max_in_flight:
            raise RateLimited(
                "The gateway has as many requests as it takes. Try again in 1s.",
                code="server_is_overloaded",
                headers={"retry-after": "1"},
            )
        self.in_flight += 1
        return Visit(self, request_id, key, key.id if key else "")

    def settle(self, record: RequestRecord) -> None:
        """A request is over and recorded: what it used takes the place of what was reserved for it."""
        self.budgets.recorded(record)
        visit = self._unsettled.pop(record.id, None)
        if visit is None:
            return
        used = record.prompt_tokens + record.completion_tokens
        # an answer that came without usage is taken to have used what was estimated
        self.give_back(visit, visit.tokens - used if used or record.status >= 400 else 0)

    def give_back(self, visit: "Visit", tokens: int) -> None:
        """End a visit's reservations: its money, and so many of its tokens (fewer than none where it used more)."""
        if visit.tokens and tokens:
            self._tokens.correct(visit.key_id, visit.tokens_per_minute, -tokens, self.clock())
            if self.shared is not None and visit.is_shared:
                self.shared.correct(visit.key_id, visit.tokens_per_minute, -tokens)
        if visit.money:
            self.budgets.reserve(visit.key_id, -visit.money)
            if self.shared is not None and visit.is_shared:
                self.shared.hold(visit.key_id, 0, -visit.money)
        visit.tokens = visit.money = 0

    def release(self, visit: "Visit") -> None:
        """Undo what a visit took."""
        self.in_flight -= 1
        if visit.has_slot:
            left = self._of_key[visit.key_id] - 1
            if left:
                self._of_key[visit.key_id] = left
            else:
                del self._of_key[visit.key_id]
        self._unsettled.pop(visit.id, None)
        self.give_back(visit, visit.tokens)
        if self.shared is not None and visit.shared_slots:
            self.shared.hold(visit.key_id, -visit.shared_slots, 0)

    def admit(self, visit: "Visit", ask: Ask) -> tuple[str, str]:
        """See `Visit.admit`."""
        policy = visit.key.policy if visit.key else UNBOUND
        target = _permitted(policy, ask)
        self._take_slot(visit, policy)
        self._count(visit, policy, ask.tokens.prompt + ask.tokens.completion)
        if visit.key is None or not (policy.has_budget and ask.prices):
            routed = target, "pinned"
        else:
            has_room = self.budgets.has_room(visit.key, now_ms())
            routed = self._pay(visit, ask, target if has_room else None)
        if visit.tokens or visit.money:
            self._unsettled[visit.id] = visit
        return routed

    async def confirm(
        self, visit: "Visit", ask: Ask, routed: tuple[str, str], shared: SharedLimits
    ) -> tuple[str, str]:
        """What this process has admitted, by the counts of all gateways."""
        policy = visit.key.policy if visit.key else UNBOUND
        of_requests, of_tokens = self._per_minute(policy)
        money = self.budgets.money(visit.key, visit.money) if visit.key and visit.money else NO_MONEY
        most = -1 if policy.max_concurrent is None else policy.max_concurrent
        wanted = Wanted(most, of_requests, of_tokens, visit.tokens, money)
        if not (of_requests or visit.tokens or visit.money or most >= 0):
            return routed
        taken = await shared.take(visit.key_id, wanted)
        if taken is not None:
            visit.headers.update(taken.headers(wanted))
            if taken.verdict == "budget":
                return await self._pay_shared(visit, ask, wanted, shared)
            if taken.verdict:
                raise taken.refusal(wanted)
        visit.is_shared, visit.shared_slots = True, int(most >= 0)
        return routed

    async def _pay_shared(self, visit: "Visit", ask: Ask, wanted: Wanted, shared: SharedLimits) -> tuple[str, str]:
        """The budget is spent, by all gateways together."""
        self.budgets.reserve(visit.key_id, -visit.money)
        visit.money = 0
        try:
            routed = self._pay(visit, ask, None)
        except QuotaExceeded:
            shared.correct(visit.key_id, wanted.tokens, -wanted.of_tokens)
            raise
        rest = Wanted(wanted.most, 0, 0, 0, Money(visit.money))
        taken = await shared.take(visit.key_id, rest)
        if taken is not None and taken.verdict:
            raise taken.refusal(rest)
        visit.is_shared, visit.shared_slots = True, int(wanted.most >= 0)
        return routed

    def _take_slot(self, visit: "Visit", policy: KeyPolicy) -> None:
        running = self._of_key.get(visit.key_id, 0)
        if policy.max_concurrent is not None and running >= policy.max_concurrent:
            raise too_many(policy.max_concurrent)
        self._of_key[visit.key_id] = running + 1
        visit.has_slot = True

    def _count(self, visit: "Visit", policy: KeyPolicy, tokens: int) -> None:
        of_requests, of_tokens = self._per_minute(policy)
        if not (of_requests or of_tokens):
            return
        now = self.clock()
        if of_requests:
            visit.headers.update(self._requests.take(visit.key_id, of_requests, 1, now))
        if of_tokens and tokens:
            visit.headers.update(self._tokens.take(visit.key_id, of_tokens, tokens, now))
            visit.tokens, visit.tokens_per_minute = tokens, of_tokens

    def _per_minute(self, policy: KeyPolicy) -> tuple[int, int]:
        """The limits of requests and of tokens, 0 for none."""
        of_requests, of_tokens = policy.requests_per_minute, policy.tokens_per_minute
        return (
            self.settings.requests_per_minute if of_requests is None else of_requests,
            self.settings.tokens_per_minute if of_tokens is None else of_tokens,
        )

    def _pay(self, visit: "Visit", ask: Ask, target: str | None) -> tuple[str, str]:
        """Reserve the money for the route to aim for; None: the budget is spent, and only the student may go on."""
        reason = "pinned"
        if target is None:
            policy = visit.key.policy if visit.key else UNBOUND
            may = policy.routes is None or "student" in policy.routes
            soft = policy.budget_kind == "soft" and may and "student" in ask.prices
            if not (soft and ask.student_is_live and ask.student_can()):
                raise QuotaExceeded("You exceeded your current quota: the budget of this key is spent.")
            target, reason = "student", "budget"
        routes = ask.prices if target == "auto" else (target,)
        visit.money = max(_estimate(ask.prices[route], ask.tokens) for route in routes)
        self.budgets.reserve(visit.key_id, visit.money)
        return target, reason


@dataclass(slots=True)
class Visit:
    """One request inside the gateway, and what it holds."""

    admission: Admission
    id: str
    key: Key | None
    key_id: str
    """The key's id, or nothing where keys are not asked for."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """OpenAI's ``x-ratelimit-*`` for its answer, once it is admitted."""
    has_slot: bool = False
    tokens: int = 0
    """Reserved, under the limit of that time."""
    tokens_per_minute: int = 0
    money: int = 0
    """Reserved, in nano-units."""
    is_shared: bool = False
    """Whether other gateways know of what it holds."""
    shared_slots: int = 0
    gone: bool = False

    def admit(self, ask: Ask) -> tuple[str, str]:
        """Check everything in order. Returns the route to aim for (or ``auto``), and the reason of an aim.

        Raises `PermissionDenied`, `RateLimited` or `QuotaExceeded`.
        """
        return self.admission.admit(self, ask)

    async def admit_everywhere(self, ask: Ask) -> tuple[str, str]:
        """`admit`, by what all gateways count together where they do."""
        routed, shared = self.admission.admit(self, ask), self.admission.shared
        return routed if shared is None else await self.admission.confirm(self, ask, routed, shared)

    def leave(self) -> None:
        """Give back what is held, once, whatever the end was."""
        if not self.gone:
            self.gone = True
            self.admission.release(self)


def may_use(policy: KeyPolicy, model: str, target: str) -> bool:
    """Whether a key may send this model's name, which stands for ``target``."""
    named = policy.models is None or model in policy.models
    if target == "auto":
        return named and policy.routes != ()
    return named and (policy.routes is None or target in policy.routes)


def _permitted(policy: KeyPolicy, ask: Ask) -> str:
    """The route to aim for where only some are allowed. Raises `PermissionDenied`."""
    if ask.model is None:
        return ask.target
    if policy.models is not None and ask.model not in policy.models:
        message = f"This key has no access to the model `{ask.model[:200]}`."
        raise PermissionDenied(message, code="model_not_found", param="model")
    routes = policy.routes
    if routes is None or ask.target in routes:
        return ask.target
    if ask.target == "auto" and len(routes) > 1:
        return "auto"
    if ask.target == "auto" and routes and (routes[0] == "teacher" or ask.student_can()):
        return routes[0]
    only = ", ".join(routes) or "none"
    raise PermissionDenied(
        f"This request needs a route that this key may not take ({only}).", code="route_not_allowed"
    )


def _estimate(price: Price, tokens: Tokens) -> int:
    """Nano-units, roughly: a price per million tokens is a thousand times as many nano-units per token."""
    per_tokens = (tokens.prompt * price.input + tokens.completion * price.output) * 1_000
    return max(1, round(per_tokens + price.request * 1_000_000_000))
