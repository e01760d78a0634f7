"""Letting in: the order of the checks, what each takes, and that all of it is given back once."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.admission import Admission, Ask, Visit, may_use
from gateway.budgets import Budgets
from gateway.errors import ApiError, PermissionDenied, QuotaExceeded, RateLimited
from gateway.settings import GatewaySettings
from ledger.keys import Key, KeyPolicy
from ledger.prices import Price, Tokens
from ledger.spending import SpendReader
from tests.unit.ledger.rows import a_store, row

PRICES = {"student": Price(input=1.0, output=2.0), "teacher": Price(input=10.0, output=20.0)}


@dataclass
class Clock:
    """Monotonic nanoseconds that a test moves."""

    now: int = 0

    def __call__(self) -> int:
        return self.now


@dataclass
class Desk:
    """An admission over an empty store."""

    budgets: Budgets
    clock: Clock = field(default_factory=Clock)

    def open(self, **settings: Any) -> Admission:
        usual = {"requests_per_minute": 0}
        return Admission(GatewaySettings(**(usual | settings)), self.budgets, self.clock)


@pytest.fixture
def desk():
    with a_store() as store:
        yield Desk(Budgets(SpendReader(store)))


def key(**policy: Any) -> Key:
    return Key("key_1", "app", "abcd", ("inference",), 0, None, None, KeyPolicy(**policy))


TOKENS = Tokens(100, 50)


def chat(target: str = "auto", tokens: Tokens = TOKENS, **more: Any) -> Ask:
    return Ask("auto", target, tokens, PRICES, **more)


def visit(admission: Admission, key: Key | None, ask: Ask, name: str = "r") -> Visit:
    entered = admission.enter(name, key)
    try:
        entered.admit(ask)
    except ApiError:
        entered.leave()
        raise
    return entered


def admitted(admission: Admission, count: int, key: Key, ask: Ask) -> int:
    """How many of so many concurrent tasks are let in; none leaves."""

    async def one(number: int) -> bool:
        await asyncio.sleep(0)
        try:
            entered = admission.enter(f"r{number}", key)
            await asyncio.sleep(0)
            entered.admit(ask)
        except RateLimited:
            return False
        return True

    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(one(number) for number in range(count))))

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("limit", [1, 7, 100, 499])
def test_of_500_concurrent_requests_exactly_as_many_pass_as_each_limit_says(desk: Desk, limit: int):
    assert admitted(desk.open(), 500, key(requests_per_minute=limit), chat()) == limit
    assert admitted(desk.open(), 500, key(tokens_per_minute=limit * 150 + 149), chat()) == limit
    assert admitted(desk.open(), 500, key(max_concurrent=limit), chat()) == limit
    assert admitted(desk.open(max_in_flight=limit), 500, key(), chat()) == limit


def test_the_settings_limit_keys_that_have_no_limit_of_their_own(desk: Desk):
    settings = {"requests_per_minute": 3, "tokens_per_minute": 300}
    assert admitted(desk.open(**settings), 10, key(), Ask()) == 3
    assert admitted(desk.open(**settings), 10, key(), chat()) == 2
    assert admitted(desk.open(**settings), 10, key(requests_per_minute=5, tokens_per_minute=0), chat()) == 5
    assert admitted(desk.open(**settings), 10, key(requests_per_minute=0, tokens_per_minute=0), chat()) == 10


def test_only_limits_that_are_set_have_headers(desk: Desk):
    assert visit(desk.open(), key(), chat()).headers == {}
    of_tokens = visit(desk.open(), key(tokens_per_minute=1000), chat()).headers
    assert of_tokens == {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "850",
        "x-ratelimit-reset-tokens": "9.000s",
    }
    assert len(visit(desk.open(), key(requests_per_minute=9, tokens_per_minute=1000), chat()).headers) == 6


def test_everything_is_given_back_once_whatever_the_end(desk: Desk):
    admission = desk.open()
    holder = key(max_concurrent=1, tokens_per_minute=150, budget_day=0.001)
    for end in ("left", "recorded", "recorded late"):
        entered = visit(admission, holder, chat(), end)
        with pytest.raises(RateLimited):
            visit(admission, holder, chat(), "second")
        if end == "recorded":
            admission.settle(row(end, key_id="key_1"))
        for _ in range(3):
            entered.leave()
        if end == "recorded late":
            admission.settle(row(end, key_id="key_1"))
        desk.clock.now += 60 * 10**9
        assert (admission.in_flight, admission._of_key, admission._unsettled) == (0, {}, {})
        assert desk.budgets._accounts["key_1"].reserved == 0


def test_true_usage_takes_the_place_of_the_estimate(desk: Desk):
    admission, holder = desk.open(), key(tokens_per_minute=1000)
    visit(admission, holder, chat(), "a")
    admission.settle(row("a", key_id="key_1", prompt_tokens=20, completion_tokens=30))
    assert visit(admission, holder, chat(), "b").headers["x-ratelimit-remaining-tokens"] == "800"
    admission.settle(row("b", key_id="key_1", prompt_tokens=400, completion_tokens=300))
    assert visit(admission, holder, chat(), "c").headers["x-ratelimit-remaining-tokens"] == "100"
    # no usage: an answer counts as estimated, a failure not at all
    admission.settle(row("c", key_id="key_1"))
    assert admission._tokens._used["key_1"][0] // (60 * 10**9) == 900
    desk.clock.now += 60 * 10**9
    visit(admission, holder, chat(), "d")
    admission.settle(row("d", key_id="key_1", status=502))
    assert admission._tokens._used["key_1"][0] == 0


def test_a_refusal_by_a_later_check_holds_nothing_of_the_earlier_ones(desk: Desk):
    admission, holder = desk.open(), key(max_concurrent=1, tokens_per_minute=150, budget_day=0.0)
    for _ in range(3):
        with pytest.raises(QuotaExceeded):
            visit(admission, holder, chat())
    assert (admission.in_flight, admission._of_key) == (0, {})


def test_the_checks_come_in_order(desk: Desk):
    admission = desk.open()
    rules = {"routes": ("student",), "max_concurrent": 1, "requests_per_minute": 1, "tokens_per_minute": 150}
    holder = key(**rules, budget_day=0.0)
    denied, fits = chat("teacher"), chat("student")
    with pytest.raises(PermissionDenied):
        visit(admission, holder, denied)
    with pytest.raises(QuotaExceeded):
        visit(admission, holder, fits)
    with pytest.raises(RateLimited, match="1 requests per minute"):
        visit(admission, holder, fits)
    desk.clock.now += 60 * 10**9
    with pytest.raises(RateLimited, match="too large"):
        visit(admission, holder, chat("student", Tokens(100, 51)))
    running = admission.enter("r", key(max_concurrent=1))
    running.admit(Ask())
    with pytest.raises(RateLimited, match="in flight at once") as refused:
        visit(admission, holder, fits)
    assert (refused.value.code, refused.value.headers["retry-after"]) == ("rate_limit_exceeded", "1")


def test_a_full_gateway_says_so_and_when_to_come_again(desk: Desk):
    admission = desk.open(max_in_flight=1)
    entered = admission.enter("a", None)
    with pytest.raises(RateLimited) as refused:
        admission.enter("b", None)
    assert (refused.value.status, refused.value.code) == (429, "server_is_overloaded")
    assert refused.value.headers["retry-after"] == "1"
    entered.leave()
    admission.enter("c", None)


def able() -> bool:
    return True


@pytest.mark.parametrize(
    ("policy", "ask", "routed"),
    [
        ({}, chat(), "auto"),
        ({}, chat("teacher"), "teacher"),
        ({"routes": ("student", "teacher")}, chat(), "auto"),
        ({"routes": ("teacher",)}, chat(), "teacher"),
        ({"routes": ("student",)}, chat(student_can=able), "student"),
        ({"routes": ("student",)}, chat("student"), "student"),
        ({"routes": ("student",)}, chat(), "route_not_allowed"),
        ({"routes": ("student",)}, chat("teacher", student_can=able), "route_not_allowed"),
        ({"routes": ("teacher",)}, chat("student"), "route_not_allowed"),
        ({"models": ("auto", "x")}, chat(), "auto"),
        ({"models": ("x",)}, chat(), "model_not_found"),
        ({"models": ("x",), "routes": ("student",)}, Ask(), "auto"),
        ({"models": (), "routes": ()}, chat(), "model_not_found"),
        ({"routes": ()}, chat(student_can=able), "route_not_allowed"),
    ],
)
def test_a_key_takes_the_routes_and_models_that_it_may(desk: Desk, policy: dict[str, Any], ask: Ask, routed: str):
    entered = desk.open().enter("r", key(**policy))
    try:
        found = entered.admit(ask)[0]
    except PermissionDenied as error:
        assert error.status == 403
        found = error.code
    assert found == routed


@pytest.mark.parametrize(
    ("policy", "model", "target", "may"),
    [
        ({}, "auto", "auto", True),
        ({"models": ("a",)}, "a", "auto", True),
        ({"models": ("a",)}, "auto", "auto", False),
        ({"routes": ("student",)}, "teacher", "teacher", False),
        ({"routes": ("student",)}, "auto", "auto", True),
        ({"routes": ()}, "auto", "auto", False),
    ],
)
def test_what_a_key_may_send_is_what_it_is_shown(policy: dict[str, Any], model: str, target: str, may: bool):
    assert may_use(KeyPolicy(**policy), model, target) == may


def test_the_dearer_route_that_may_answer_is_reserved(desk: Desk):
    admission, holder = desk.open(), key(budget_day=1.0)
    assert visit(admission, holder, chat(), "a").money == (100 * 10 + 50 * 20) * 1000
    assert visit(admission, holder, chat("student"), "b").money == (100 * 1 + 50 * 2) * 1000
    assert visit(admission, holder, Ask(), "c").money == 0


@pytest.mark.parametrize(
    ("policy", "ask", "routed"),
    [
        ({}, chat(student_can=able, student_is_live=True), ("student", "budget")),
        ({}, chat("teacher", student_can=able, student_is_live=True), ("student", "budget")),
        ({}, chat(student_is_live=True), None),
        ({}, chat(student_can=able), None),
        ({"routes": ("teacher",)}, chat(student_can=able, student_is_live=True), None),
        ({"budget_kind": "hard"}, chat(student_can=able, student_is_live=True), None),
    ],
    ids=["to the student", "though pinned", "it cannot", "it is not live", "it may not", "hard"],
)
def test_past_a_soft_budget_the_student_answers_what_it_can(desk: Desk, policy: dict, ask: Ask, routed: Any):
    entered = desk.open().enter("r", key(**({"budget_month": 0.0, "budget_kind": "soft"} | policy)))
    try:
        assert entered.admit(ask) == routed
    except QuotaExceeded as error:
        assert routed is None
        assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
        assert "retry-after" not in error.headers
        assert error.headers["x-should-retry"] == "false"
