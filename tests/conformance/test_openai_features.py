"""What OpenAI documents for chat, by OpenAI's client: tools, schemas, log-probabilities, several choices, errors."""

import json
from dataclasses import replace

import msgspec
import openai
import pydantic
import pytest

from tests.conformance.scripts import LOCATE, asked, calling, saying, streaming_calls
from tests.gateway_fixtures import EASY, World, running_world
from tests.scripted_upstream import Script

MESSAGES = [{"role": "user", "content": EASY}]


class Parcel(pydantic.BaseModel):
    """What a structured answer is to look like."""

    city: str
    days: int


def arguments(calls) -> list[tuple[str, dict]]:
    return [(call.id, json.loads(call.function.arguments)) for call in calls or ()]


@pytest.mark.parametrize("parcels", [("a1",), ("a1", "b2", "c3")], ids=["one", "parallel"])
def test_tool_calls_come_back_and_their_results_go_out(client: openai.OpenAI, world: World, parcels):
    world.teacher.reset(Script(text="They are in Ghent."), [calling(*parcels)])
    first = client.chat.completions.create(
        model="auto", messages=MESSAGES, tools=[LOCATE], tool_choice="auto", parallel_tool_calls=True
    )
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert arguments(message.tool_calls) == [(f"call_{n}", {"parcel": parcel}) for n, parcel in enumerate(parcels)]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "Ghent"} for call in message.tool_calls or ()]
    second = client.chat.completions.create(model="auto", messages=[*MESSAGES, message, *results], tools=[LOCATE])
    assert second.choices[0].message.content == "They are in Ghent."
    began, answered = (seen.body for seen in world.teacher.seen)
    assert (began["tools"], began["tool_choice"], began["parallel_tool_calls"]) == ([LOCATE], "auto", True)
    assert answered["messages"][2:] == results
    assert [call["id"] for call in answered["messages"][1]["tool_calls"]] == [r["tool_call_id"] for r in results]
    assert world.student.seen == [], "decided before a token was spent"


@pytest.mark.parametrize("parcels", [("a1",), ("a1", "b2", "c3")], ids=["one", "parallel"])
def test_streamed_tool_calls_are_put_together(client: openai.OpenAI, world: World, parcels):
    world.teacher.reset(streaming_calls(*parcels))
    with client.chat.completions.stream(model="auto", messages=MESSAGES, tools=[LOCATE]) as stream:
        answer = stream.get_final_completion()
    assert arguments(answer.choices[0].message.tool_calls) == [
        (f"call_{n}", {"parcel": parcel}) for n, parcel in enumerate(parcels)
    ]
    assert answer.choices[0].finish_reason == "tool_calls"


def test_a_structured_answer_is_parsed(client: openai.OpenAI, world: World):
    saying(world, '{"city": "Ghent", "days": 3}')
    answer = client.chat.completions.parse(model="auto", messages=MESSAGES, response_format=Parcel)
    assert answer.choices[0].message.parsed == Parcel(city="Ghent", days=3)
    schema = asked(world)["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["required"] == ["city", "days"]


@pytest.mark.parametrize("top", [None, 0, 3, 20])
def test_log_probabilities_are_as_many_as_were_asked_for(client: openai.OpenAI, top: int | None):
    fields = {} if top is None else {"top_logprobs": top}
    answer = client.chat.completions.create(model="auto", messages=MESSAGES, logprobs=True, **fields)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(token.token for token in logprobs.content or []) == answer.choices[0].message.content
    assert {len(token.top_logprobs) for token in logprobs.content or []} == {top or 0}


def test_several_choices_come_back(client: openai.OpenAI):
    answer = client.chat.completions.create(model="auto", messages=MESSAGES, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.message.content for choice in answer.choices} == {"The teacher says good day."}


PASSED_ON = {
    "temperature": 0.5, "top_p": 0.9, "stop": ["\n"], "seed": 7, "max_completion_tokens": 9, "user": "u",
    "store": False, "logit_bias": {"5": -1}, "presence_penalty": 0.1, "frequency_penalty": 0.2,
    "metadata": {"a": "b"}, "reasoning_effort": "low", "service_tier": "auto",
    "response_format": {"type": "json_object"},
}  # fmt: skip


def test_every_documented_field_reaches_the_teacher_as_it_was(client: openai.OpenAI, world: World):
    client.chat.completions.create(model="teacher", messages=MESSAGES, **PASSED_ON)
    body = asked(world)
    assert {name: body.get(name) for name in PASSED_ON} == PASSED_ON


def test_images_reach_the_teacher_as_they_were(client: openai.OpenAI, world: World):
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
    ]
    client.chat.completions.create(model="auto", messages=[{"role": "user", "content": parts}])
    assert world.teacher.seen[0].body["messages"][0]["content"] == parts
    assert world.student.seen == []


def test_the_raw_response_of_a_stream_has_the_headers_too(client: openai.OpenAI):
    with client.chat.completions.with_streaming_response.create(model="auto", messages=MESSAGES, stream=True) as raw:
        assert raw.headers["x-stillroom-route"] == "student"
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.headers["x-request-id"].startswith("req_")
        assert sum(1 for _ in raw.iter_lines()) > 5


async def test_async_streams_run_side_by_side(async_client: openai.AsyncOpenAI):
    streams = [
        await async_client.chat.completions.create(model="auto", messages=MESSAGES, stream=True) for _ in range(5)
    ]
    texts = ["".join([chunk.choices[0].delta.content or "" async for chunk in stream]) for stream in streams]
    assert texts == ["The student says good day."] * 5


async def test_async_errors_are_the_clients_exceptions(async_client: openai.AsyncOpenAI):
    with pytest.raises(openai.NotFoundError):
        await async_client.chat.completions.create(model="gpt-17", messages=MESSAGES)
    with pytest.raises(openai.AuthenticationError):
        await async_client.with_options(api_key="sk-wrong").models.list()


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"messages": []}, "messages"), ({"top_logprobs": 21}, "top_logprobs"), ({"stream": "yes"}, "stream")],
)
def test_what_is_wrong_with_a_request_is_named(client: openai.OpenAI, fields: dict, param: str):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**({"model": "auto", "messages": MESSAGES} | fields))
    assert (raised.value.param, raised.value.type) == (param, "invalid_request_error")
    assert raised.value.request_id is not None


def test_a_key_that_asks_too_often_gets_a_rate_limit_error(router, tmp_path):
    def strict(config):
        return replace(config, gateway=msgspec.structs.replace(config.gateway, requests_per_minute=1))

    with (
        running_world(tmp_path, router, strict) as world,
        openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.secrets["inference"], max_retries=0) as client,
    ):
        client.chat.completions.create(model="teacher", messages=MESSAGES)
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(model="teacher", messages=MESSAGES)
        assert raised.value.code == "rate_limit_exceeded"
        assert int(raised.value.response.headers["retry-after"]) >= 1
        assert raised.value.response.headers["x-ratelimit-remaining-requests"] == "0"
