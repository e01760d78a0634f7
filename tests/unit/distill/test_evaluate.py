"""Asking a student the held-out requests, and the intervals of what comes back."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from distill.dataset import HeldOut
from distill.evaluate import Replayed, agreement_interval, labelled, paired_difference, replay
from router.signals import SIGNAL_TOP, TokenLogprob

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


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
        choice = {"message": {"content": text}, "logprobs": {"content": [token] * 12}}
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


async def test_answers_are_compared_and_come_back_in_the_order_of_the_requests(student: str):
    requests = [held_out("it is lost"), held_out("it is Late"), held_out("it is LOST.")]
    done: list[int] = []
    rows = await replay(student, "student", requests, done.append)
    assert [(row.request.id, row.answer, row.agreed) for row in rows] == [
        ("it is lost", "lost", True),
        ("it is Late", "Late", False),
        ("it is LOST.", "LOST.", True),
    ]
    assert sorted(done) == [1, 2, 3]
    assert rows[0].tokens == (TokenLogprob(-0.1, (-0.1, -2.0)),) * 12
    assert all(row.latency_ms > 0 for row in rows)


async def test_a_request_is_asked_as_its_client_asked_it_with_the_signals_logprobs(student: str):
    await replay(student, "student", [held_out("it is lost", max_tokens=5, temperature=0)], lambda _: None)
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
    refused, answered = await replay(student, "student", [held_out(f"{status}"), held_out("lost")], lambda _: None)
    assert (refused.answer, refused.tokens, refused.agreed) == ("", (), False)
    assert answered.agreed


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_a_failing_server_is_an_error_and_not_a_wrong_answer(student: str, status: int):
    with pytest.raises(httpx.HTTPStatusError, match=str(status)):
        await replay(student, "student", [held_out("lost"), held_out(str(status))], lambda _: None)


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


@given(PAIRS)
def test_the_difference_is_the_mean_and_its_bound_is_not_above_it(pairs: list[tuple[bool, bool]]):
    candidate, champion = zip(*pairs, strict=True)
    mean, lower = paired_difference(candidate, champion)
    assert mean == pytest.approx(np.mean(np.asarray(candidate, float) - np.asarray(champion, float)))
    assert -1 <= lower <= mean + 1e-9


@given(PAIRS)
def test_exchanging_the_two_turns_the_difference_round(pairs: list[tuple[bool, bool]]):
    candidate, champion = zip(*pairs, strict=True)
    assert paired_difference(candidate, champion)[0] == -paired_difference(champion, candidate)[0]


def test_the_bound_is_that_of_resampled_rows():
    rng = np.random.default_rng(3)
    champion = rng.random(300) < 0.7
    candidate = np.where(rng.random(300) < 0.8, champion, rng.random(300) < 0.8)
    differences = candidate.astype(float) - champion.astype(float)
    rows = rng.integers(0, 300, (10_000, 300))
    expected = np.quantile(differences[rows].mean(axis=1), 0.05)
    mean, lower = paired_difference(candidate.tolist(), champion.tolist())
    assert mean == pytest.approx(differences.mean())
    assert lower == pytest.approx(expected, abs=1 / 300)


def test_the_bound_is_passed_about_as_often_as_stated():
    rng = np.random.default_rng(4)
    misses = 0
    for seed in range(400):
        champion, candidate = rng.random((2, 400)) < np.array([[0.7], [0.75]])
        misses += paired_difference(candidate.tolist(), champion.tolist(), seed=seed)[1] > 0.05
    assert 0.02 < misses / 400 < 0.09


def test_two_hundred_thousand_pairs_take_no_memory_to_speak_of():
    pairs = [True, False] * 100_000
    assert paired_difference(pairs, pairs) == (0.0, 0.0)


def test_no_pairs_say_nothing_and_uneven_ones_are_an_error():
    assert paired_difference([], []) == (0.0, -1.0)
    with pytest.raises(ValueError, match="2 answers of the candidate and 1 of the champion"):
        paired_difference([True, False], [True])
