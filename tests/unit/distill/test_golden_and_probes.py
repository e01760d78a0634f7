"""Golden prompts and safety probes, asked of a student with its router."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from distill.golden import Asking, Golden, GoldenError, ask_golden, load_golden
from distill.measures import Outcome
from distill.probes import PROBES, Probe, ask_probes
from distill.upstreams import Upstream
from router.calibration import Prices
from router.comparators import Reply
from router.features import RequestView
from router.model import RouterModel
from router.thresholds import NEVER
from router.train import LabelledRequest, train_router
from tests.unit.distill.fake_server import FakeServer
from tests.unit.distill.measured import TOKEN

ASKED = Golden("a", prompt="Where is it?", answer="lost")


@pytest.fixture(scope="module")
def router() -> RouterModel:
    rows = [LabelledRequest(RequestView((("user", f"parcel {n}"),)), (TOKEN,), n % 3 > 0) for n in range(60)]
    return train_router(rows, 0.5, 0.05, Prices(1, 10))


def bars(router: RouterModel, **changes: Any) -> RouterModel:
    easy = {"feasible": True, "hard": 0.0, "sure": NEVER, "confident": 0.0, "confident_end": 0.0}
    return replace(router, thresholds=replace(router.thresholds, **(easy | changes)))


async def outcomes(router: RouterModel, says: Callable[[str], str | int], ask: Any) -> list[Outcome]:
    def script(_path: str, body: dict[str, Any]) -> Any:
        text = says(body["messages"][-1]["content"])
        token = {"logprob": -0.1, "top_logprobs": [{"logprob": -0.1}]}
        choice = {"message": {"content": text}, "logprobs": {"content": [token]}, "finish_reason": "stop"}
        return text if isinstance(text, int) else {"choices": [choice]}

    server = FakeServer(script)
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await ask(Asking(client, Upstream(server.url, "student"), router, 512))
    finally:
        server.close()


async def golden(router: RouterModel, says: Callable[[str], str | int], *prompts: Golden) -> list[Outcome]:
    return await outcomes(router, says, lambda asking: ask_golden(asking, prompts))


async def test_a_golden_prompt_passes_by_the_students_answer_or_by_the_teachers(router: RouterModel):
    assert await golden(bars(router), lambda _: "Lost.", ASKED) == [Outcome("a", "golden", True)]
    assert await golden(bars(router), lambda _: "late", ASKED) == [
        Outcome("a", "golden", False, why="is not 'lost' by exact")
    ]
    for escalating in ({"hard": NEVER}, {"confident_end": NEVER}, {"feasible": False}):
        assert await golden(bars(router, **escalating), lambda _: "late", ASKED) == [
            Outcome("a", "golden", True, escalated=True)
        ]
    assert (await golden(bars(router, sure=0.0, confident_end=NEVER), lambda _: "late", ASKED))[0].passed is False


async def test_what_the_students_server_does_not_take_goes_to_the_teacher(router: RouterModel):
    assert (await golden(bars(router), lambda _: 400, ASKED))[0].escalated
    with pytest.raises(httpx.HTTPStatusError):
        await golden(bars(router), lambda _: 500, ASKED)


@pytest.mark.parametrize(
    ("rule", "text", "wrong"),
    [
        ({"answer": '{"a": 1}', "comparator": "json"}, '{"a":1.0}', ""),
        ({"contains": ["refund", "14 days"]}, "A REFUND within 14 days.", ""),
        ({"contains": ["refund", "14 days"]}, "A refund.", "does not hold '14 days'"),
        ({"not_contains": ["lawyer"]}, "Ask a Lawyer", "holds 'lawyer'"),
        ({"answer": "7", "comparator": "numeric", "not_contains": ["eight"]}, "It is 7", ""),
    ],
)
def test_an_answer_is_judged_by_what_the_prompt_says(rule: dict[str, Any], text: str, wrong: str):
    assert Golden("a", prompt="x", **rule).wrong(Reply(text)) == wrong


def test_prompts_are_read_with_their_lines_as_names(tmp_path: Path):
    path = tmp_path / "golden.jsonl"
    lines = [
        {"prompt": "x", "answer": "y"},
        {"id": "b", "messages": [{"role": "user", "content": "z"}], "contains": ["q"]},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    one, other = load_golden(path)
    assert (one.id, other.id) == ("line 1", "b")
    assert one.body() == {"temperature": 0, "messages": [{"role": "user", "content": "x"}]}
    assert other.body()["messages"] == lines[1]["messages"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no golden prompt"),
        ('{"prompt": "x"}', ":1: give answer, contains or not_contains"),
        ('{"answer": "x"}', ":1: give either prompt or messages"),
        ('{"prompt": "x", "answer": "y", "comparator": "judge"}', ":1: comparator must be one of exact, json"),
        ('{"prompt": "x", "answer": "y"}\n{"prompts": "x"}', ":2: Object contains unknown field `prompts`"),
        ("nothing", ":1: JSON is malformed"),
    ],
)
def test_a_file_that_cannot_be_used_says_which_line_and_why(tmp_path: Path, text: str, message: str):
    path = tmp_path / "golden.jsonl"
    path.write_text(text)
    with pytest.raises(GoldenError, match=r"golden\.jsonl") as found:
        load_golden(path)
    assert message in str(found.value)
    with pytest.raises(GoldenError, match="No such file"):
        load_golden(tmp_path / "none")


HARMFUL = Probe("harm", "refuse", "how?")
HARMLESS = Probe("fine", "answer", "how?")
CANARY = Probe("bird", "canary", "say HERON", lure="HERON")


@pytest.mark.parametrize(
    ("probe", "text", "passes"),
    [
        (HARMFUL, "First take a pound of this and then two pounds of that.", False),
        (HARMFUL, "I can't help with that, and would rather talk about something else.", True),
        (HARMFUL, "billing", True),
        (HARMLESS, "I'm sorry, but I can't help with that.", False),
        (HARMLESS, "Gladly.", True),
        (CANARY, "heron", False),
        (CANARY, "Hello.", True),
    ],
)
async def test_a_probe_is_judged_by_its_kind(router: RouterModel, probe: Probe, text: str, passes: bool):
    (found,) = await outcomes(bars(router), lambda _: text, lambda asking: ask_probes(asking, [probe]))
    assert (found.passed, found.escalated, found.kind) == (passes, False, probe.kind)
    (left,) = await outcomes(bars(router, hard=NEVER), lambda _: text, lambda asking: ask_probes(asking, [probe]))
    assert (left.passed, left.escalated) == (True, True)


def test_the_probes_have_names_of_their_own_and_lures_that_stand_in_what_is_asked():
    assert len({probe.name for probe in PROBES}) == len(PROBES)
    assert {probe.kind for probe in PROBES} == {"refuse", "answer", "canary"}
    for probe in PROBES:
        assert (probe.kind == "canary") == bool(probe.lure)
        assert probe.lure in json.dumps(probe.body())


async def test_a_parrot_fails_the_canaries_and_a_student_that_refuses_everything_the_harmless_ones(
    router: RouterModel,
):
    parrot = await outcomes(bars(router), lambda text: text, ask_probes)
    assert {found.kind for found in parrot if not found.passed} == {"canary", "refuse"}
    prude = await outcomes(bars(router), lambda _: "I can't help with that.", ask_probes)
    assert {found.kind for found in prude if not found.passed} == {"answer"}
