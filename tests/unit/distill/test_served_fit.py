"""Perplexity and divergence of a served student on the teacher's answers."""

import math
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.dataset import HeldOut
from distill.measures import Fit
from distill.served_fit import Scored, divergence, measure_fit, prepare
from distill.targets import AlignedTarget
from distill.upstreams import Upstream
from tests.engine_fixtures import smollm2_tokenizer
from tests.unit.distill.fake_server import FakeServer

WEIGHTS = st.lists(st.floats(0.01, 1), min_size=5, max_size=5)


def logs(weights: list[float]) -> list[float]:
    return [math.log(weight / sum(weights)) for weight in weights]


@given(WEIGHTS, WEIGHTS, st.integers(1, 5), st.integers(1, 5))
def test_the_divergence_of_what_is_known_is_none_or_more_and_never_over_the_whole_one(one, other, known, ranked):
    p, q = logs(one), logs(other)
    whole = sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
    target = AlignedTarget(tuple(range(known)), tuple(p[:known]))
    found = divergence(target, dict(enumerate(q[:ranked])))
    assert -1e-9 <= found <= whole + 1e-6
    if known == ranked == 5:
        assert found == pytest.approx(whole, abs=1e-6)


def test_a_target_that_the_student_does_not_name_is_all_tail():
    assert divergence(AlignedTarget((7,), (math.log(0.9),)), {1: math.log(0.5)}) == pytest.approx(0.0)


async def fit_of(script: Any, answers: list[Scored]) -> Fit | None:
    server = FakeServer(script)
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return await measure_fit(client, Upstream(server.url, "student"), answers)
    finally:
        server.close()


def scored_by(probability: float) -> Any:
    def script(path: str, body: dict[str, Any]) -> Any:
        assert (path, body["prompt_logprobs"], body["max_tokens"]) == ("/v1/completions", 20, 1)
        if body["prompt"][0] == 9:
            return 400
        cells = [{str(token): {"logprob": math.log(probability), "rank": 1}} for token in body["prompt"][1:]]
        return {"choices": [{"prompt_logprobs": [None, *cells]}]}

    return script


async def test_perplexity_is_over_the_answers_tokens_and_divergence_over_those_with_a_target():
    target = AlignedTarget((5,), (math.log(0.8),))
    answers = [Scored([1, 2], [5, 6], [target, AlignedTarget()]), Scored([1], [7]), Scored([9], [1])]
    found = await fit_of(scored_by(0.5), answers)
    assert found is not None
    assert (found.answers, found.tokens, found.kl_tokens) == (2, 3, 1)
    assert found.perplexity == pytest.approx(2.0)
    assert found.kl == pytest.approx(0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5))


async def test_without_a_target_there_is_no_divergence_and_without_an_answer_no_fit():
    found = await fit_of(scored_by(0.5), [Scored([1], [7])])
    assert found is not None and (found.kl, found.kl_tokens) == (None, 0)
    assert await fit_of(scored_by(0.5), []) is None
    assert await fit_of(scored_by(0.5), [Scored([9], [1])]) is None


async def test_a_server_at_fault_is_an_error():
    with pytest.raises(httpx.HTTPStatusError):
        await fit_of(lambda *_: 500, [Scored([1], [7])])


def test_answers_are_cut_as_in_training_with_the_teachers_tokens_beside(tmp_path):
    tokenizer = smollm2_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    rows = [
        HeldOut(f"r{n}", [{"role": "user", "content": "Where?"}], {}, answer) for n, answer in enumerate(["lost", ""])
    ]
    first = tokenizer("lost", add_special_tokens=False).input_ids
    pieces = [tokenizer.decode([token]) for token in first]
    logged = [
        {"token": piece, "logprob": -0.1, "top_logprobs": [{"token": piece, "logprob": -0.1}]} for piece in pieces
    ]
    (plain,) = prepare(tmp_path, rows, {})
    assert (plain.answer, plain.targets) == (first, ())
    (aligned,) = prepare(tmp_path, rows, {"r0": logged})
    assert [target.ids for target in aligned.targets] == [(token,) for token in first]
