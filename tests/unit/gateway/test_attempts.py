"""What is tried again, after which pause, where, and how much of it the budget allows."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import attempts as module
from gateway import breaker
from gateway.attempts import Attempts, Patience
from gateway.call import Call, Caller, read_call
from gateway.errors import Fault, UpstreamError
from gateway.hedging import abandon, first_good
from gateway.members import Order
from gateway.metrics import Metrics
from gateway.retries import MAX_BACKOFF_S, is_retried, pause_before, seconds_until
from gateway.upstream import Question, Upstream, UpstreamReply, open_client

LIMITED = b'{"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}'
SPENT = b'{"error": {"message": "no more", "type": "insufficient_quota", "code": null}}'
GOOD = UpstreamReply(200, b"{}", {})
URLS = ("http://a/v1", "http://b/v1", "http://c/v1")


def patience(**changes: float) -> Patience:
    values = {"retries": 2, "max_retry_after_s": 2.0, "total_s": 60.0, "request_s": 60.0}
    return Patience(**(values | changes))  # pyright: ignore[reportArgumentType]


def call(text: str = "hi") -> Call:
    raw = f'{{"model": "auto", "messages": [{{"role": "user", "content": "{text}"}}]}}'.encode()
    return read_call(raw, {"traceparent": "00-ab"}, Caller("req_1", None, {}, log_content=True))


class Network:
    """In place of the one function that opens connections: answers by URL, and who was asked when."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        urls: tuple[str, ...] = URLS,
        order: Order = "first",
        **changes: float,
    ) -> None:
        self.answers: dict[str, list[UpstreamReply | UpstreamError]] = {}
        self.asked: list[str] = []
        self.questions: list[Question] = []
        self.paused: list[float] = []
        client = open_client()
        upstreams = [Upstream("teacher", url, f"model of {url[7]}", None, client.timeout) for url in urls]
        self.metrics = Metrics()
        self.side = Attempts(upstreams, patience(**changes), client, self.metrics, order)
        monkeypatch.setattr(module.upstream, "post", self._post)

    async def _post(self, _client: object, upstream: Upstream, question: Question) -> UpstreamReply:
        self.asked.append(upstream.base_url[7])
        self.questions.append(question)
        answers = self.answers.get(upstream.base_url[7], [GOOD])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        await asyncio.sleep(0)
        if isinstance(answer, UpstreamError):
            raise answer
        return answer

    async def post(self, text: str = "hi") -> UpstreamReply:
        return await self.side.post(call(text), lambda upstream: {"model": upstream.model})


def fault(kind: Fault, retry_after: str | None = None) -> UpstreamError:
    return UpstreamError("teacher", "failed", retry_after, kind)


def limited(retry_after: str | None = None, body: bytes = LIMITED) -> UpstreamReply:
    return UpstreamReply(429, body, {} if retry_after is None else {"retry-after": retry_after})


@pytest.mark.parametrize("kind", ["connect", "closed", "busy"])
async def test_the_next_upstream_is_asked_at_once(monkeypatch: pytest.MonkeyPatch, kind: Fault):
    network = Network(monkeypatch)
    network.answers = {"a": [fault(kind)], "b": [fault(kind)]}
    assert await network.post() == GOOD
    assert network.asked == ["a", "b", "c"]
    bodies = [question.body for question in network.questions]
    assert bodies == [b'{"model":"model of a"}', b'{"model":"model of b"}', b'{"model":"model of c"}']


@pytest.mark.parametrize("kind", ["failed", "late", "broken", "refused", "deadline"])
async def test_what_may_have_cost_tokens_or_will_not_change_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, kind: Fault
):
    network = Network(monkeypatch)
    network.answers = {"a": [fault(kind)]}
    with pytest.raises(UpstreamError) as raised:
        await network.post()
    assert (raised.value.fault, network.asked) == (kind, ["a"])


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
async def test_a_refusal_is_the_clients(monkeypatch: pytest.MonkeyPatch, status: int):
    network = Network(monkeypatch)
    network.answers = {"a": [UpstreamReply(status, b"{}", {})]}
    assert (await network.post()).status == status
    assert network.asked == ["a"]


async def test_retries_are_counted_over_all_upstreams(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, URLS[:2], retries=4)
    network.answers = {"a": [fault("busy", "0")], "b": [fault("busy", "0")]}
    with pytest.raises(UpstreamError):
        await network.post()
    assert sorted(network.asked) == ["a", "a", "a", "b", "b"]
    assert network.side.retrying == network.side.in_flight == 0


async def test_no_retries_is_one_attempt(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, retries=0)
    network.answers = {"a": [fault("busy")]}
    with pytest.raises(UpstreamError):
        await network.post()
    assert network.asked == ["a"]


async def test_too_many_requests_go_to_another_upstream_but_not_to_the_same_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
):
    network = Network(monkeypatch, URLS[:2])
    network.answers = {"a": [limited()], "b": [limited()]}
    assert (await network.post()).status == 429
    assert network.asked == ["a", "b"]


async def test_a_spent_quota_is_not_tried_again_anywhere(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch)
    network.answers = {"a": [limited("0", SPENT)]}
    assert (await network.post()).status == 429
    assert network.asked == ["a"]


@pytest.mark.parametrize(("retry_after", "asked"), [("0", 3), ("0.05", 3), ("3", 1), (None, 1)])
async def test_a_single_upstream_is_asked_again_after_the_pause_it_wants(
    monkeypatch: pytest.MonkeyPatch, retry_after: str | None, asked: int
):
    network = Network(monkeypatch, URLS[:1])
    network.answers = {"a": [limited(retry_after)]}
    assert (await network.post()).status == 429
    assert len(network.asked) == asked


async def test_a_pause_beyond_the_deadline_is_not_begun(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, URLS[:1], total_s=0.3)
    network.answers = {"a": [fault("busy", "1")]}
    with pytest.raises(UpstreamError, match="failed"):
        await network.post()
    assert network.asked == ["a"]


async def test_the_request_is_out_of_time_before_it_is_asked(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, request_s=0.0)
    with pytest.raises(UpstreamError) as raised:
        await network.post()
    assert (raised.value.fault, network.asked) == ("deadline", [])
    assert network.side.in_flight == 0


async def test_an_open_breaker_is_passed_over_and_all_open_say_when_to_come_back(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, URLS[:2], retries=0)
    network.answers = {"a": [fault("failed")], "b": [fault("failed")]}
    for _ in range(10):
        with pytest.raises(UpstreamError):
            await network.post()
    assert network.asked == ["a"] * 5 + ["b"] * 5
    with pytest.raises(UpstreamError) as raised:
        await network.post()
    assert (raised.value.fault, len(network.asked)) == ("open", 10)
    assert raised.value.retry_after in ("4", "5")


async def test_our_own_mistakes_open_no_breaker(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch)
    network.answers = {"a": [fault("refused")]}
    for _ in range(20):
        with pytest.raises(UpstreamError):
            await network.post()
    assert network.side.members[0].breaker.state == "closed"


async def test_a_flood_of_failures_is_tried_again_in_bounds(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, URLS[:1])
    monkeypatch.setattr(breaker.Breaker, "_open", lambda self, now: None)  # the budget alone
    network.answers = {"a": [fault("busy", "0.2")]}
    outcomes = await asyncio.gather(*(network.post() for _ in range(100)), return_exceptions=True)
    assert all(isinstance(outcome, UpstreamError) for outcome in outcomes)
    # 20 of 100 at once, each at most twice
    assert 100 < len(network.asked) <= 140
    assert network.side.retrying == network.side.in_flight == 0


@pytest.mark.parametrize(("kind", "most"), [("connect", 100), ("closed", 100), ("busy", 20)])
async def test_all_that_a_server_had_that_is_gone_is_asked_of_another(
    monkeypatch: pytest.MonkeyPatch, kind: Fault, most: int
):
    network = Network(monkeypatch, URLS[:2], retries=1)
    network.answers = {"a": [fault(kind)]}
    outcomes = await asyncio.gather(*(network.post() for _ in range(100)), return_exceptions=True)
    assert outcomes.count(GOOD) == network.asked.count("b") == most
    assert network.side.retrying == network.side.in_flight == 0


async def test_few_requests_may_have_a_few_retries(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, URLS[:1], retries=1)
    network.answers = {"a": [fault("busy", "0.1")]}
    await asyncio.gather(*(network.post() for _ in range(4)), return_exceptions=True)
    assert len(network.asked) == 4 + 3


async def test_cancelled_in_its_pause_a_request_gives_its_place_back(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, URLS[:1])
    network.answers = {"a": [fault("busy", "1")]}
    task = asyncio.create_task(network.post())
    await asyncio.sleep(0.05)
    assert (network.side.retrying, network.side.in_flight) == (1, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (network.side.retrying, network.side.in_flight) == (0, 0)


async def test_an_upstream_that_stays_keeps_its_breaker_when_the_urls_change(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch)
    kept = network.side.members[1].breaker
    network.side.serve_at(("http://b/v1", "http://d/v1"))
    assert [member.upstream.base_url for member in network.side.members] == ["http://b/v1", "http://d/v1"]
    assert [member.index for member in network.side.members] == [0, 1]
    assert network.side.members[0].breaker is kept


async def test_a_request_is_tried_again_where_it_began_though_the_urls_have_changed(monkeypatch: pytest.MonkeyPatch):
    """The new URLs are another release's students, and its answer was routed by the old one's router."""
    network = Network(monkeypatch, URLS[:1])
    network.answers = {"a": [fault("busy", "0"), GOOD]}
    task = asyncio.create_task(network.post())
    await asyncio.sleep(0)
    assert network.asked == ["a"]
    network.side.serve_at(("http://d/v1",))
    await task
    assert network.asked == ["a", "a"]


async def test_each_request_begins_at_another_one_where_they_are_equals(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, order="in_turn")
    for _ in range(6):
        await network.post()
    assert {url: network.asked.count(url) for url in "abc"} == {"a": 2, "b": 2, "c": 2}


async def test_a_conversation_stays_with_its_own_and_another_takes_its_place(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, order="affinity")
    for _ in range(6):
        await network.post("one")
    (own,) = set(network.asked)
    await asyncio.gather(*(network.post(str(n)) for n in range(60)))
    assert set(network.asked) == set("abc")
    network.answers = {own: [fault("connect")]}
    network.asked.clear()
    for _ in range(2):
        assert await network.post("one") == GOOD
    assert [network.asked[0], network.asked[2]] == [own, own]
    assert network.asked[1] == network.asked[3] != own
    assert [member.load.in_flight for member in network.side.members] == [0, 0, 0]


async def test_what_comes_at_once_for_one_conversation_is_not_one_servers_alone(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, order="affinity")
    await asyncio.gather(*(network.post() for _ in range(90)))
    assert all(15 <= network.asked.count(url) <= 46 for url in "abc")
    assert network.metrics.registry.get_sample_value("stillroom_affinity_missed_total") == 90 - max(
        network.asked.count(url) for url in "abc"
    )


async def test_who_fails_more_often_than_its_equals_is_left_alone_and_comes_back_slowly(
    monkeypatch: pytest.MonkeyPatch,
):
    network = Network(monkeypatch, order="affinity", retries=0)
    texts = [str(n) for n in range(120)]
    network.answers = {"a": [fault("failed"), GOOD, GOOD, GOOD] * 60}
    for text in texts:
        await asyncio.gather(network.post(text), return_exceptions=True)
    ejected = network.side.members[0]
    assert ejected.breaker.state == "open", "a quarter failed, which no breaker minds"
    network.asked.clear()
    network.answers = {}
    for text in texts:
        await network.post(text)
    assert "a" not in network.asked
    monkeypatch.setattr(ejected.breaker, "_until", 0.0)  # its time is over
    for text in texts:
        await network.post(text)
    assert ejected.breaker.state == "closed"
    assert ejected.load.weight(time.monotonic()) < 0.2


async def test_a_teacher_is_no_outlier_among_others(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, retries=0)
    network.answers = {"a": [fault("failed"), GOOD, GOOD, GOOD] * 20}
    for _ in range(60):
        await asyncio.gather(network.post(), return_exceptions=True)
    assert network.side.members[0].breaker.state == "closed"


async def test_who_joins_others_begins_slowly_and_all_at_once_do_not(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch, order="affinity")
    network.side.serve_at(("http://d/v1", "http://e/v1"))
    now = time.monotonic()
    assert [member.load.weight(now) for member in network.side.members] == [1.0, 1.0]
    network.side.serve_at(("http://d/v1", "http://e/v1", "http://f/v1"))
    *before, joined = network.side.members
    assert [member.load.weight(now) for member in before] == [1.0, 1.0]
    assert joined.load.weight(time.monotonic()) < 0.2


async def test_the_answer_of_another_model_is_not_learned_from(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch)
    network.answers = {"a": [fault("connect")]}
    asked = call()
    await network.side.post(asked, lambda upstream: {})
    assert asked.trainable is False


async def test_what_nobody_waits_for_is_asked_of_the_first_one_once(monkeypatch: pytest.MonkeyPatch):
    network = Network(monkeypatch)
    network.answers = {"a": [fault("busy")]}
    for _ in range(5):
        assert await network.side.post_once(call(), lambda upstream: {}) is None
    assert network.asked == ["a"] * 5
    assert await network.side.post_once(call(), lambda upstream: {}) is None
    assert network.asked == ["a"] * 5


@given(st.integers(1, 12))
def test_a_pause_grows_and_stays_in_its_bounds(attempt: int):
    pause = pause_before(fault("busy"), attempt, 2.0)
    assert pause is not None
    assert 0 <= pause <= min(MAX_BACKOFF_S, 0.1 * 2 ** (attempt - 1))


def test_a_pause_is_no_shorter_than_asked_for():
    assert pause_before(fault("busy", "1.5"), 1, 2.0) == 1.5
    assert pause_before(fault("busy", "2.5"), 1, 2.0) is None


def test_a_date_is_understood_as_a_time_to_retry_after():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    seconds = seconds_until(soon)
    assert seconds is not None
    assert 0 < seconds <= 90
    assert seconds_until(format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)) == 0.0
    assert seconds_until("Wed, 21 Oct 2099 07:28:00 -0000") is not None


@given(st.text(max_size=30))
def test_any_header_is_a_time_or_none(text: str):
    seconds = seconds_until(text)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error": []}', b'{"error": {}}', b'{"error": "insufficient_quota"}'])
def test_an_odd_refusal_is_one_that_may_pass(body: bytes):
    assert is_retried(UpstreamReply(429, body, {}))


async def in_turn(seconds: float, value: str) -> str:
    await asyncio.sleep(seconds)
    return value


async def test_the_first_good_result_wins_and_the_rest_are_dropped():
    tasks = [
        asyncio.create_task(in_turn(seconds, value)) for seconds, value in ((0.2, "slow"), (0.0, "bad"), (0.05, "x"))
    ]
    dropped: list[str] = []

    async def drop(value: str) -> None:
        dropped.append(value)

    winner = await first_good(tasks, lambda value: value != "bad")
    assert winner.result() == "x"
    await abandon([task for task in tasks if task is not winner], drop)
    assert dropped == ["bad"]
    assert tasks[0].cancelled()


async def test_where_none_is_good_the_first_task_tells():
    tasks = [asyncio.create_task(in_turn(seconds, "bad")) for seconds in (0.02, 0.0)]
    assert await first_good(tasks, lambda value: False) is tasks[0]
