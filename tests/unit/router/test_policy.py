"""The table of routes and reasons."""

import pytest

from router.calibration import Thresholds
from router.features import RequestView
from router.model import RouterModel
from router.policy import Capabilities, Decision, decide, escalate
from router.signals import TokenLogprob
from router.thresholds import NEVER
from tests.unit.router.worlds import router_of

PLAIN = RequestView((("user", "hello"),))
STUDENT = Capabilities(context_tokens=100)


def router(
    hard: float = 0.0, sure: float = NEVER, confident: float = 0.5, confident_end: float = 0.5, feasible: bool = True
) -> RouterModel:
    """Scores every request 0.5; is as confident as the mean logprob is above -1, or -2 at the end."""
    thresholds = Thresholds(hard, confident, 0.95, 0.05, 300, 0.9, 0.96, feasible, sure, confident_end)
    return router_of(thresholds, held=-1.0, whole=-2.0)


NOVELTY = router().assess(PLAIN).novelty


@pytest.mark.parametrize(
    ("model", "route", "reason", "provisional"),
    [
        (router(), "student", "confident", True),
        (router(hard=0.5), "student", "confident", True),
        (router(hard=0.6), "teacher", "hard", False),
        (router(sure=0.6), "student", "confident", True),
        (router(sure=0.5), "student", "confident", False),
        (router(hard=0.5, sure=0.5), "student", "confident", False),
        (router(feasible=False), "teacher", "hard", False),
        (router(sure=0.5, feasible=False), "teacher", "hard", False),
    ],
    ids=[
        "good score",
        "score at the threshold",
        "low score",
        "score between hard and sure",
        "score at sure",
        "no cascade",
        "no feasible thresholds",
        "no feasible thresholds, though sure",
    ],
)
def test_a_plain_request_takes_the_route_of_its_score(model: RouterModel, route: str, reason: str, provisional: bool):
    decision = decide(PLAIN, model, STUDENT)
    assert decision == Decision(route, reason, 0.5, 1.0, NOVELTY, provisional)


def test_without_a_model_the_teacher_answers():
    assert decide(PLAIN, None, STUDENT) == Decision("teacher", "no_release", None, 1.0)


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
    ("model", "logprob", "held", "whole"),
    [
        (router(), -0.5, False, False),
        (router(), -1.5, True, False),
        (router(), -2.5, True, True),
        (router(confident=0.0), -29.0, False, True),
        (router(confident_end=0.0), -29.0, True, False),
        (router(confident=NEVER), -0.0, True, False),
        (router(feasible=False), -0.0, True, True),
    ],
    ids=[
        "confident",
        "confident at the end only",
        "not confident",
        "no bar for streams",
        "no bar for whole answers",
        "streams never",
        "no feasible thresholds",
    ],
)
def test_an_attempt_below_the_bar_of_its_way_is_abandoned(
    model: RouterModel, logprob: float, held: bool, whole: bool
):
    tokens = [TokenLogprob(logprob, (logprob,))]
    assert escalate(model, 0.5, tokens) == (held, model.confidence(0.5, tokens))
    assert escalate(model, 0.5, tokens, whole=True) == (whole, model.confidence(0.5, tokens, whole=True))


@pytest.mark.parametrize("whole", [False, True])
def test_an_attempt_without_logprobs_is_abandoned(whole: bool):
    assert escalate(router(), 0.5, (), whole) == (True, 0.0)
