"""Asking a student the held-out requests, and the intervals of what comes back."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from distill.dataset import HeldOut
from distill.evaluate import Comparators, Replayed, agreement_interval, labelled, replay
from distill.upstreams import Upstream
from router.settings import RouterSettings
from router.signals import SIGNAL_TOP, TokenLogprob
from tests.unit.distill.fake_server import FakeServer, says


class FakeStudent(BaseHTTPRequestHandler):
    """A fake of the student's server: answers with the request's last word, or with the status it names."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).asked.append(body)
        text = body["messages"][-1]["content"].split()[-1]
        status = int(text) if text.isdigit() else 200
        top = [{"token": "x", "logprob": -0.1}, {"token": "y", "logprob": -2.0}]
        token = {"token": "x", "logprob": -0.1, "top_logprobs": top}
        message: dict[str, Any] = {"content": text}
        if text == "call":
            message = {"content": None, "tool_calls": [{"function": {"name": "lookup", "arguments": "{}"}}]}
        choice = {"message": message, "logprobs": {"content": [token] * 12}, "finish_reason": "stop"}
        sent = json.dumps({"choices": [choice]} if status == 200 else {"error": {}}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def student() -> Iterator[str]:
    FakeStudent.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeStudent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def held_out(text: str, answer: str = "lost", **parameters: Any) -> HeldOut:
    return HeldOut(text, [{"role": "user", "content": text}], parameters, answer)


async def ask(url: str, *requests: HeldOut, **settings: Any) -> list[Replayed]:
    comparators = Comparators(RouterSettings(**settings), lambda *_: None)
    return await replay(Upstream(url, "student"), requests, comparators, lambda _: None)


async def test_answers_are_compared_and_come_back_in_the_order_of_the_requests(student: str):
    requests = [held_out("it is lost"), held_out("it is Late"), held_out("it is LOST.")]
    done: list[int] = []
    comparators = Comparators(RouterSettings(), lambda *_: None)
    rows = await replay(Upstream(student, "student"), requests, comparators, done.append)
    assert [(row.request.id, row.answer, row.agreed) for row in rows] == [
        ("it is lost", "lost", True),
        ("it is Late", "Late", False),
        ("it is LOST.", "LOST.", True),
    ]
    assert sorted(done) == [1, 2, 3]
    assert rows[0].tokens == (TokenLogprob(-0.1, (-0.1, -2.0)),) * 12
    assert all(row.latency_ms > 0 for row in rows)


async def test_a_request_is_asked_as_its_client_asked_it_with_the_signals_logprobs(student: str):
    await ask(student, held_out("it is lost", max_tokens=5, temperature=0))
    (body,) = FakeStudent.asked
    assert body == {
        "model": "student",
        "messages": [{"role": "user", "content": "it is lost"}],
        "max_tokens": 5,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": SIGNAL_TOP,
    }


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_the_server_does_not_take_is_one_the_student_got_wrong(student: str, status: int):
    refused, answered = await ask(student, held_out(f"{status}"), held_out("lost"))
    assert (refused.answer, refused.tokens, refused.agreed) == ("", (), False)
    assert answered.agreed


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_a_failing_server_is_an_error_and_not_a_wrong_answer(student: str, status: int):
    with pytest.raises(httpx.HTTPStatusError, match=str(status)):
        await ask(student, held_out("lost"), held_out(str(status)))


async def test_each_request_is_compared_by_its_own_comparator(student: str):
    requests = [
        held_out("how many? seven", "It is 7, not seven"),
        msgspec.structs.replace(held_out('{"a":1}', '{"a": 1.0}'), tags=["forms"]),
        msgspec.structs.replace(held_out("so it is", "Is"), model="gpt-4o"),
        held_out("now call"),
    ]
    named = {"forms": "json", "gpt-4o": "exact"}
    rows = await ask(student, *requests, comparators=named)
    assert [(row.comparator, row.agreed) for row in rows] == [
        ("numeric", False),
        ("json", True),
        ("exact", True),
        ("exact", False),
    ]


async def test_an_answer_that_nobody_can_compare_is_not_taken_for_agreement(student: str):
    (row,) = await ask(student, held_out("it is lost", "missing"), comparator="judge")
    assert (row.comparator, row.agreed) == ("judge", False)


@pytest.fixture
def vllm() -> Iterator[FakeServer]:
    """A student that says one thing, and finds each token of any answer as likely as a coin's side."""

    def script(path: str, body: dict[str, Any]) -> Any:
        if path == "/tokenize":
            return {"tokens": [1, 2]}
        if path == "/v1/completions":
            scored = ({str(token): {"logprob": -0.69}} for token in body["prompt"][1:])
            return {"choices": [{"prompt_logprobs": [None, *scored]}]}
        return says("Said in one way.\nAnd on.")

    server = FakeServer(script)
    yield server
    server.close()


@pytest.mark.parametrize(("comparator", "asked"), [("auto", 0), ("judge", 2)])
async def test_the_teacher_judges_held_out_prose_only_where_the_settings_say_so(
    vllm: FakeServer, comparator: str, asked: int
):
    teacher = FakeServer(lambda *_: says("tie"))
    paid: list[str] = []
    comparators = Comparators(
        RouterSettings(comparator=comparator), lambda name, *_: paid.append(name), Upstream(teacher.url, "frontier")
    )
    try:
        request = held_out("Tell me", "Said in another way.\nAnd so on.")
        (row,) = await replay(Upstream(vllm.url, "student"), [request], comparators, lambda _: None)
    finally:
        teacher.close()
    assert (row.comparator, row.agreed) == ("judge" if asked else "likelihood", True)
    assert (len(teacher.seen), paid) == (asked, ["judge"] * asked)


def test_the_router_learns_who_was_right_and_what_was_cut_off():
    request = msgspec.structs.replace(held_out("where"), teacher_right=False)
    tokens = (TokenLogprob(-1.0, ()),) * 4
    whole, cut = labelled(
        [
            Replayed(request, "lost", tokens, False, 8.0),
            Replayed(held_out("x"), "lo", (), False, 8.0, "exact", cut_off=True),
        ],
        hold_tokens=2,
    )
    assert (whole.teacher_right, whole.cut_off, whole.whole, whole.token_ms) == (False, False, tokens, 2.0)
    assert (cut.teacher_right, cut.cut_off, cut.token_ms) == (True, True, None)


def test_the_router_learns_from_as_many_tokens_as_the_gateway_holds_back():
    tokens = tuple(TokenLogprob(-float(n), ()) for n in range(12))
    (row,) = labelled([Replayed(held_out("where", max_tokens=7), "lost", tokens, True, 1.0)], hold_tokens=8)
    assert (row.tokens, row.agreed, row.view.max_tokens) == (tokens[:8], True, 7)
    assert row.view.messages == (("user", "where"),)


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.9, 0.95, 0.99]))
def test_the_interval_is_clopper_and_pearsons(right: int, wrong: int, confidence: float):
    share, low, high = agreement_interval([True] * right + [False] * wrong, confidence)
    if right + wrong == 0:
        assert (share, low, high) == (0, 0, 1)
        return
    expected = binomtest(right, right + wrong).proportion_ci(confidence, method="exact")
    assert share == right / (right + wrong)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
