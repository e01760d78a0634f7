"""Why a request took its route, in words: the rule, the numbers and their thresholds, and which words told."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ledger.records import Content
from router.calibration import Prices
from router.explain import Background, explain, explain_text, telling_words
from router.features import RequestView
from router.model import RouterModel
from router.policy import Capabilities
from router.signals import TokenLogprob
from router.train import LabelledRequest, train_router

CAPABILITIES = Capabilities(context_tokens=2_000)


@pytest.fixture(scope="module")
def router() -> RouterModel:
    """Learned that the student cannot do what says "integral"."""
    rng = np.random.default_rng(0)
    rows: list[LabelledRequest] = []
    for _ in range(400):
        hard = bool(rng.random() < 0.3)
        words = " ".join(f"w{int(w)}" for w in rng.integers(40, size=5))
        p = 0.5 if hard else 0.97
        said = tuple(TokenLogprob(float(np.log(p)), (float(np.log(p)), float(np.log(1 - p)))) for _ in range(4))
        view = RequestView((("user", f"please {'integral' if hard else 'packages'} {words}"),))
        rows.append(LabelledRequest(view, said, hard == bool(rng.random() < 0.03)))
    trained = train_router(rows, 0.9, 0.1, Prices(1.0, 20.0))
    bars = replace(trained.thresholds, hard=0.5, sure=0.999, confident=0.8, confident_end=0.7, feasible=True)
    return replace(trained, thresholds=bars)


def row(reason: str, **values: Any) -> dict[str, Any]:
    route = "student" if reason in ("confident", "budget", "teacher_down") else "teacher"
    usual = {"route": route, "reason": reason, "score": 0.25, "confidence": None, "novelty": 0.2, "stream": False}
    return usual | values


def content(text: str = "please integral w1", **values: Any) -> Content:
    return Content(messages=[{"role": "user", "content": text}], **values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"reason": "no_release", "score": None, "novelty": None}, "There is no release live"),
        ({"reason": "hard"}, "Its score is too low: the student's answer would do with a probability of 25.0%."),
        ({"reason": "confident", "score": 0.97}, "Its score is high: the student's answer will do with"),
        ({"reason": "confident", "confidence": 0.9}, "The student was sure enough: its answer will do with"),
        ({"reason": "low_confidence", "confidence": 0.125}, "would have done with a probability of 12.5%"),
        ({"reason": "budget", "score": None}, "The budget of its key is spent"),
        ({"reason": "budget"}, "The teacher's ceiling was reached"),
        ({"reason": "pinned", "score": None}, "It was pinned to the teacher"),
        ({"reason": "student_down"}, "was not there to answer, so that the teacher did"),
        ({"reason": "teacher_down"}, "was not there to answer, so that the student did"),
        ({"reason": "explore"}, "The teacher was asked beside the other side"),
        ({"reason": "something new"}, "The reason is something new."),
    ],
    ids=lambda value: value["reason"] if isinstance(value, dict) else "",
)
def test_each_reason_has_a_sentence(values: dict[str, Any], said: str):
    explanation = explain(row(**values), None, Background())
    assert said in explanation.why[0]
    assert explanation.reason == values["reason"]


@pytest.mark.parametrize(
    ("parameters", "messages", "said"),
    [
        ({"n": 3}, None, "the request asks for 3 answers at once"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, None, "the request offers tools"),
        ({"modalities": ["text", "audio"]}, None, "the request asks for something that no student is served with"),
        ({"max_tokens": 4_000}, None, "the student takes 2000"),
        ({}, [{"type": "image_url", "image_url": {"url": "x"}}], "which the student cannot read"),
    ],
)
def test_a_hard_rule_says_what_it_refused(parameters: dict[str, Any], messages: Any, said: str):
    kept = Content(messages=[{"role": "user", "content": messages or "hello"}], parameters=parameters)
    why = explain(row("unsupported", score=None, novelty=None), kept, Background(None, CAPABILITIES)).why
    assert said in why[0]
    assert len(why) == 1


def test_a_refusal_that_is_no_rule_s_any_more_is_not_made_up():
    background = Background(None, CAPABILITIES)
    assert "by today's settings it would" in explain(row("unsupported"), content(), background).why[0]
    assert "was not kept" in explain(row("unsupported"), None, background).why[0]


def test_numbers_stand_beside_their_thresholds(router: RouterModel):
    plain = explain(row("low_confidence", confidence=0.3), None, Background(router)).why
    assert "Score 0.250: the student is tried from 0.500 on, and from 0.999 on its answer stands." in plain[1]
    assert "by the whole answer: the answer stands from 0.700 on" in plain[2]
    streamed = explain(row("low_confidence", confidence=0.3, stream=True), None, Background(router)).why
    assert "by the first tokens: the answer stands from 0.800 on" in streamed[2]
    assert plain[3].startswith("Novelty 0.20")
    assert "unlike all" in explain(row("hard", novelty=0.9), None, Background(router)).why[2]


def test_thresholds_that_keep_no_target_are_said_to(router: RouterModel):
    infeasible = replace(router, thresholds=replace(router.thresholds, feasible=False))
    why = explain(row("hard"), None, Background(infeasible)).why
    assert "No thresholds were shown to keep an agreement of 90.0%" in why[0]
    assert not any(sentence.startswith("Score") for sentence in why)


def test_the_least_likely_token_is_named():
    kept = content(least_likely=("Tuesday", float(np.log(0.02))))
    why = explain(row("low_confidence", confidence=0.3), kept, Background()).why
    assert why[-1] == "The student was least sure of the token 'Tuesday': it gave it a probability of 0.02."
    assert "token" not in " ".join(explain(row("hard"), kept, Background()).why)


def test_the_words_that_moved_the_score_come_first(router: RouterModel):
    (first, *_) = telling_words(router, RequestView((("user", "please integral w1 w2"),)))
    assert first.word == "integral"
    assert first.effect < 0
    (first, *_) = explain(row("confident"), content("please packages w1"), Background(router)).words
    assert (first.word, first.effect > 0) == ("packages", True)
    assert telling_words(router, RequestView(())) == []


def test_a_text_is_decided_as_a_request_would_be(router: RouterModel):
    assert explain_text("please integral w1", router, CAPABILITIES).reason == "hard"
    easy = explain_text("please packages w1", router, CAPABILITIES)
    assert (easy.route, easy.reason) == ("student", "confident")
    assert "at least 0.700 by the whole answer, or 0.800 by a stream's start" in easy.why[0]
    sure = replace(router, thresholds=replace(router.thresholds, sure=0.5))
    assert "Its score is high" in explain_text("please packages w1", sure, CAPABILITIES).why[0]
    assert explain_text("please packages " * 2_000, router, CAPABILITIES).reason == "unsupported"
    assert explain_text("hello", None, CAPABILITIES).reason == "no_release"
