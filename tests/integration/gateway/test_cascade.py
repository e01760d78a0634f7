"""The router decides, then the student's confidence: what is held back, for whom, and what may still change."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.model import RouterModel
from router.thresholds import NEVER
from tests.gateway_fixtures import EASY, HOLD, SURE, UNSURE, World, chat_body, running_world, streamed_text
from tests.scripted_upstream import Script, event, stream_events, token_logprobs

GAP = 0.15
TEXT = "a b c d e f"


@contextmanager
def served(home: Path, router: RouterModel, **bars: float) -> Iterator[World]:
    """A world whose router has these thresholds."""
    with running_world(home, replace(router, thresholds=replace(router.thresholds, **bars))) as world:
        yield world


def asked(world: World, stream: bool, script: Script) -> dict[str, Any]:
    """The ledger's row of a request that the student is to answer by a script."""
    world.student.reset(script)
    answer = world.chat(EASY, stream=stream)
    assert answer.status_code == 200
    return world.row(answer.headers["x-request-id"])


@pytest.fixture(scope="module")
def sure(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(tmp_path_factory.mktemp("sure"), router, sure=0.5) as world:
        yield world


@pytest.mark.parametrize("stream", [False, True])
def test_who_is_sure_is_answered_by_the_student_whatever_its_confidence(sure: World, stream: bool):
    row = asked(sure, stream, Script(text=TEXT, logprob=UNSURE))
    assert (row["route"], row["reason"], row["confidence"]) == ("student", "confident", None)
    assert row["score"] >= 0.5
    assert 0 <= row["novelty"] <= 1


def tokens_of_the_first_piece(world: World) -> int:
    """Of the student's stream, whose events are far apart."""
    world.student.reset(Script(text=TEXT, logprob=SURE, gap=0.15))
    with world.streaming(EASY) as response:
        pieces = response.iter_raw()
        first = next(pieces)
        list(pieces)
    return sum(f'"content":"{said}"'.encode() in first.replace(b'": "', b'":"') for said in Script(TEXT).tokens)


def test_what_is_sure_is_not_held_back(sure: World, world: World):
    assert tokens_of_the_first_piece(world) >= HOLD
    assert tokens_of_the_first_piece(sure) < HOLD


@pytest.mark.parametrize(
    ("bars", "streamed", "plain"),
    [
        ({"confident": 0.0, "confident_end": 0.5}, "student", "teacher"),
        ({"confident": 0.5, "confident_end": 0.0}, "teacher", "student"),
        ({"confident": 0.0, "confident_end": NEVER}, "student", "teacher"),
    ],
    ids=["lax on streams", "lax on whole answers", "whole answers never"],
)
def test_streams_and_whole_answers_have_bars_of_their_own(
    router: RouterModel, tmp_path: Path, bars: dict[str, float], streamed: str, plain: str
):
    with served(tmp_path, router, **bars) as world:
        for stream, route in ((True, streamed), (False, plain)):
            row = asked(world, stream, Script(text=TEXT, logprob=UNSURE))
            assert row["route"] == route
            assert row["reason"] == ("confident" if route == "student" else "low_confidence")


def doubt_at_the_end() -> tuple[bytes, ...]:
    """A stream whose held tokens are as good as certain, and whose others are not."""
    body = chat_body(EASY) | {"logprobs": True, "top_logprobs": 5}
    certain = list(stream_events(body, Script(text="a b c d e f", logprob=SURE)))
    doubted = list(stream_events(body, Script(text="x y z " * 20, logprob=UNSURE)))
    return (*certain[:7], *doubted[1:-1], event(b"[DONE]"))


def test_doubt_that_comes_later_in_a_stream_never_switches_it(world: World):
    world.student.reset(Script(events=doubt_at_the_end()))
    answer = world.chat(EASY, stream=True)
    assert answer.headers["x-stillroom-route"] == "student"
    assert "x" in streamed_text(answer)
    assert world.teacher.seen == []
    assert world.row(answer.headers["x-request-id"])["confidence"] > 0.5


def test_a_plain_answer_is_judged_by_all_of_it(world: World):
    """The same tokens, not streamed: the doubt at the end counts."""
    said = [("a", SURE)] * HOLD + [("x", UNSURE)] * 60
    tokens = [token_logprobs(token, logprob, 5) for token, logprob in said]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "a a a a x x x"},
        "logprobs": {"content": tokens},
        "finish_reason": "stop",
    }
    world.student.reset(Script(extra={"choices": [choice]}))
    answer = world.chat(EASY)
    assert answer.headers["x-stillroom-reason"] == "low_confidence"
