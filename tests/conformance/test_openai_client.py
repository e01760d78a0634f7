"""OpenAI's own client against the gateway: only its base URL and key are changed."""

import threading

import openai
import pytest

from tests.gateway_fixtures import EASY, HARD, RELEASE, World
from tests.scripted_upstream import Script

MESSAGES = [{"role": "user", "content": EASY}]


def test_a_completion_is_what_the_client_expects(client: openai.OpenAI):
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    assert answer.choices[0].message.content == "The student says good day."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None
    assert answer.usage is not None
    assert answer.usage.total_tokens == 16
    assert answer._request_id is not None


def test_a_stream_is_what_the_client_expects(client: openai.OpenAI):
    chunks = list(client.chat.completions.create(model="auto", messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "The student says good day."
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_with_usage_ends_with_it(client: openai.OpenAI):
    chunks = list(
        client.chat.completions.create(
            model="auto", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 11


def test_the_streaming_helper_puts_the_answer_together(client: openai.OpenAI):
    with client.chat.completions.stream(model="auto", messages=MESSAGES, logprobs=True, top_logprobs=2) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == "The student says good day."
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert [len(token.top_logprobs) for token in logprobs.content or []] == [2] * 5


def test_the_headers_are_in_the_raw_response(client: openai.OpenAI):
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=MESSAGES, extra_headers={"x-stillroom-route": "teacher"}
    )
    assert raw.headers["x-stillroom-route"] == "teacher"
    assert raw.headers["x-stillroom-release"] == RELEASE
    assert raw.parse().choices[0].message.content == "The teacher says good day."


def test_fields_that_this_version_does_not_know_go_through(client: openai.OpenAI, world: World):
    client.chat.completions.create(model="teacher", messages=MESSAGES, extra_body={"guided_choice": ["yes", "no"]})
    assert world.teacher.seen[0].body["guided_choice"] == ["yes", "no"]


def test_the_models_are_listed(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["auto", "student", "teacher", "gpt-4o-mini", "cheap"]
    assert client.models.retrieve("auto").id == "auto"


async def test_the_async_client_is_answered_plain_and_streamed(async_client: openai.AsyncOpenAI):
    answer = await async_client.chat.completions.create(model="auto", messages=MESSAGES)
    stream = await async_client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == answer.choices[0].message.content == "The student says good day."


async def test_an_async_client_that_leaves_a_stream_closes_it(async_client: openai.AsyncOpenAI, world: World):
    world.student.script = Script(text="word " * 2_000, logprob=-0.02, gap=0.02)
    stream = await async_client.chat.completions.create(model="auto", messages=MESSAGES, stream=True)
    async for _ in stream:
        break
    await stream.close()
    assert world.student.seen[0].has_left()


REFUSALS = {
    400: openai.BadRequestError,
    404: openai.NotFoundError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}


@pytest.mark.parametrize(("status", "expected"), REFUSALS.items())
@pytest.mark.parametrize("stream", [False, True])
def test_the_teachers_refusals_are_the_clients_exceptions(
    client: openai.OpenAI, world: World, status: int, expected: type[openai.APIStatusError], stream: bool
):
    body = b'{"error":{"message":"no","type":"t","param":"p","code":"c"}}'
    world.teacher.script = Script(status=status, body=body, headers={"retry-after": "3"})
    with pytest.raises(expected) as raised:
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": HARD}], stream=stream)
    assert (raised.value.code, raised.value.param, raised.value.type) == ("c", "p", "t")
    assert raised.value.response.headers["retry-after"] == "3"
    assert raised.value.request_id is not None


def test_an_unknown_model_is_a_not_found_error(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-17", messages=MESSAGES)
    assert raised.value.code == "model_not_found"


def test_a_wrong_key_is_an_authentication_error(client: openai.OpenAI):
    with pytest.raises(openai.AuthenticationError) as raised:
        client.with_options(api_key="sk-wrong").chat.completions.create(model="auto", messages=MESSAGES)
    assert raised.value.code == "invalid_api_key"


def test_a_key_of_another_scope_is_a_permission_error(client: openai.OpenAI, world: World):
    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(api_key=world.secrets["read"]).models.list()


@pytest.mark.parametrize("stream", [False, True])
def test_a_teacher_that_is_down_is_a_server_error(client: openai.OpenAI, world: World, stream: bool):
    world.teacher.script = Script(status=500, body=b"")
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="teacher", messages=MESSAGES, stream=stream)
    assert raised.value.status_code == 503


def test_a_stream_that_breaks_off_raises_where_it_breaks(client: openai.OpenAI, world: World):
    world.teacher.script = Script(text="one two three four five", gap=0.02, cut_after=4)
    stream = client.chat.completions.create(model="teacher", messages=MESSAGES, stream=True)
    text = ""
    with pytest.raises(openai.APIError, match="broke off"):
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text.startswith("one two")


def test_the_clients_own_retry_gets_over_a_short_outage(client: openai.OpenAI, world: World):
    world.teacher.script = Script(status=503, body=b"", headers={"retry-after": "1"})

    def recover() -> None:
        world.teacher.script = Script(text="back again")

    timer = threading.Timer(0.5, recover)
    timer.start()
    answer = client.with_options(max_retries=2).chat.completions.create(model="teacher", messages=MESSAGES)
    timer.join()
    assert answer.choices[0].message.content == "back again"
