"""Labels by a real vLLM: the student's likelihood of an answer, and a judge whose verdict is constrained."""

import math

import httpx
import pytest

from distill.judge import judge
from distill.likelihood import answer_logprob
from distill.upstreams import BadAnswer, Upstream
from serving.parity import trained_logprobs
from tests.engine_fixtures import smollm2_tokenizer

pytestmark = pytest.mark.engine

MESSAGES = [{"role": "system", "content": "Sort it."}, {"role": "user", "content": "Where is my parcel?"}]
TOLERANCE = 1e-3


@pytest.fixture
async def client():
    async with httpx.AsyncClient(timeout=120, trust_env=False) as opened:
        yield opened


@pytest.fixture
def student(tiny_engine) -> Upstream:
    return Upstream(f"{tiny_engine.base_url}/v1", tiny_engine.model)


@pytest.mark.parametrize(
    "answer", ["tracking", "It is on its way.\nYou will have it on Monday.", "\n\n  ünïcode 包裹"]
)
async def test_the_likelihood_is_that_of_the_weights_over_the_answers_tokens(client, student, tiny_engine, answer):
    tokenizer = smollm2_tokenizer()
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, answer)]
    (scores,) = trained_logprobs(tiny_engine.folder, [[*ids[0], *ids[1]]])
    expected = sum(scores[-len(ids[1]) :]) / len(ids[1])
    found = await answer_logprob(client, student, MESSAGES, answer)
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert found < 0


async def test_the_students_own_answer_is_likelier_than_another_one(client, student):
    body = {"model": student.model, "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
    answer = await client.post(f"{student.url}/chat/completions", json=body)
    own = answer.json()["choices"][0]["message"]["content"]
    likelihoods = [await answer_logprob(client, student, MESSAGES, text) for text in (own, "zebra quartz")]
    assert likelihoods[0] > likelihoods[1]


async def test_an_answer_too_long_for_the_student_is_as_unlikely_as_can_be(client, student):
    assert await answer_logprob(client, student, MESSAGES, "word " * 3_000) == -math.inf


async def test_an_answer_without_a_token_is_an_error(client, student):
    with pytest.raises(BadAnswer, match="without a token"):
        await answer_logprob(client, student, MESSAGES, "")


async def test_a_server_that_is_not_there_is_an_error_and_no_likelihood(client):
    with pytest.raises(httpx.ConnectError):
        await answer_logprob(client, Upstream("http://127.0.0.1:9/v1", "student"), MESSAGES, "x")


async def test_a_model_that_knows_nothing_gives_readable_verdicts_under_the_schema(client, student):
    spent = []
    label = await judge(client, student, MESSAGES, ("It is on its way.", "No idea."), spent.append)
    assert label in (0.0, 0.5, 1.0)
    assert [tokens.prompt > 50 and tokens.completion > 2 for tokens in spent] == [True, True]
