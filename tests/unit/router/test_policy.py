"""The table of routes and reasons."""

import numpy as np
import pytest

from router.calibration import Thresholds
from router.features import FEATURES, RequestView
from router.model import Coefficients, RouterModel, TrainingSummary
from router.policy import Capabilities, Decision, decide, escalate
from router.signals import SIGNALS, TokenLogprob

PLAIN = RequestView((("user", "hello"),))
STUDENT = Capabilities(context_tokens=100)


def router(hard: float = 0.0, confident: float = 0.5, feasible: bool = True) -> RouterModel:
    """Scores every request 0.5; is as confident as the mean logprob is above -1."""
    weights = np.zeros(len(SIGNALS) + 1)
    weights[0] = 10.0
    return RouterModel(
        Coefficients(np.zeros(FEATURES, dtype=np.float32), 0.0, weights, 10.0, needs_logprobs=True),
        Thresholds(hard, confident, 0.95, 0.05, 300, 0.9, 0.96, feasible=feasible),
        TrainingSummary(300, 280, 0, 0.1, 0.0, 0.0),
    )


@pytest.mark.parametrize(
    ("view", "model", "capabilities", "expected"),
    [
        (PLAIN, None, STUDENT, Decision("teacher", "no_release", None, 1.0)),
        (PLAIN, router(), STUDENT, Decision("student", "confident", 0.5, 1.0)),
        (PLAIN, router(hard=0.5), STUDENT, Decision("student", "confident", 0.5, 1.0)),
        (PLAIN, router(hard=0.6), STUDENT, Decision("teacher", "hard", 0.5, 1.0)),
        (PLAIN, router(feasible=False), STUDENT, Decision("teacher", "hard", 0.5, 1.0)),
    ],
    ids=["no model", "good score", "score at the threshold", "low score", "no feasible thresholds"],
)
def test_a_plain_request_takes_the_route_of_its_score(
    view: RequestView, model: RouterModel | None, capabilities: Capabilities, expected: Decision
):
    assert decide(view, model, capabilities) == expected


@pytest.mark.parametrize(
    ("view", "able"),
    [
        (RequestView(PLAIN.messages, has_images=True), Capabilities(100, images=True)),
        (RequestView(PLAIN.messages, has_tools=True), Capabilities(100, tools=True)),
        (RequestView(PLAIN.messages, n=2), None),
        (RequestView(PLAIN.messages, max_tokens=99), Capabilities(101)),
        (RequestView((("system", "x" * 300),)), Capabilities(101)),
        (RequestView((("user", "漢" * 100),)), Capabilities(101)),
        (RequestView((("user", "\ud800" * 100),)), Capabilities(101)),
    ],
    ids=["images", "tools", "several choices", "long answer", "long prompt", "long CJK prompt", "surrogates"],
)
def test_what_the_student_cannot_do_goes_to_the_teacher(view: RequestView, able: Capabilities | None):
    assert decide(view, router(), STUDENT) == Decision("teacher", "unsupported", None, 1.0)
    if able is not None:
        assert decide(view, router(), able).route == "student"


@pytest.mark.parametrize(
    ("field", "value", "unserved"),
    [
        ("modalities", ["text", "audio"], True),
        ("modalities", ["text"], False),
        ("audio", {"voice": "alloy"}, True),
        ("audio", None, False),
        ("web_search_options", {}, True),
        ("functions", [{"name": "f"}], True),
        ("prompt_embeds", "AA==", True),
        ("reasoning_effort", "galactic", True),
        ("reasoning_effort", ["low"], True),
        ("reasoning_effort", "low", False),
        ("tools", [{"type": "custom"}], True),
        ("tools", [{"type": "function"}, 7], False),
        ("prediction", {"type": "content"}, False),
        ("logit_bias", {"1": 2}, False),
        ("response_format", {"type": "json_schema"}, False),
    ],
)
def test_a_field_that_no_engine_has_is_the_teachers(field: str, value: object, unserved: bool):
    view = RequestView.from_body({"messages": [{"role": "user", "content": "hi"}], field: value})
    able = Capabilities(8_000, tools=True, images=True)
    assert view.unserved is unserved
    assert decide(view, router(), able).reason == ("unsupported" if unserved else "confident")


@pytest.mark.parametrize(
    ("model", "logprob", "expected"),
    [
        (router(), -0.5, False),
        (router(), -1.5, True),
        (router(confident=0.0), -29.0, False),
        (router(feasible=False), -0.0, True),
    ],
    ids=["confident", "not confident", "no bar", "no feasible thresholds"],
)
def test_an_attempt_below_the_bar_is_abandoned(model: RouterModel, logprob: float, expected: bool):
    escalated, confidence = escalate(model, 0.5, [TokenLogprob(logprob, (logprob,))])
    assert escalated is expected
    assert confidence == model.confidence(0.5, [TokenLogprob(logprob, (logprob,))])


def test_an_attempt_without_logprobs_is_abandoned():
    assert escalate(router(), 0.5, ()) == (True, 0.0)
