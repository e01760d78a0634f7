"""LangChain's OpenAI model against the gateway."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.conformance.scripts import asked, calling, saying, streaming_calls
from tests.gateway_fixtures import EASY, World
from tests.scripted_upstream import Script


class Parcel(BaseModel):
    """What a structured answer is to look like."""

    city: str
    days: int


@tool
def locate(parcel: str) -> str:
    """Where a parcel is."""
    return f"{parcel} is in Ghent"


@pytest.fixture
def chat(world: World) -> Callable[..., ChatOpenAI]:
    """Make a model: ``chat(model=..., api_key=...)``."""

    def make(**changes: Any) -> ChatOpenAI:
        usual = {"model": "auto", "api_key": world.secrets["inference"], "max_retries": 0}
        return ChatOpenAI(base_url=f"{world.url}/v1", **(usual | changes))

    return make


def test_a_message_is_answered_with_its_usage(chat):
    answer = chat().invoke(EASY)
    assert answer.content == "The student says good day."
    assert answer.usage_metadata["input_tokens"] == 11
    assert answer.usage_metadata["total_tokens"] == 16
    assert answer.response_metadata["finish_reason"] == "stop"


def test_a_stream_is_put_together_with_its_usage(chat):
    chunks = list(chat(stream_usage=True).stream(EASY))
    assert "".join(chunk.content for chunk in chunks) == "The student says good day."
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.usage_metadata["total_tokens"] == 16


async def test_it_answers_asynchronously_too(chat):
    model = chat()
    assert (await model.ainvoke(EASY)).content == "The student says good day."
    assert "".join([chunk.content async for chunk in model.astream(EASY)]) == "The student says good day."


def test_a_tool_is_called_and_its_result_taken(chat, world: World):
    world.teacher.reset(Script(text="It is in Ghent."), [calling("a1", "b2")])
    model = chat().bind_tools([locate])
    message = model.invoke(EASY)
    assert [call["args"] for call in message.tool_calls] == [{"parcel": "a1"}, {"parcel": "b2"}]
    results: list[ToolMessage] = [locate.invoke(call) for call in message.tool_calls]
    assert model.invoke([HumanMessage(EASY), message, *results]).content == "It is in Ghent."
    sent = world.teacher.seen[1].body["messages"]
    assert [message["content"] for message in sent[2:]] == ["a1 is in Ghent", "b2 is in Ghent"]


def test_streamed_tool_calls_are_put_together(chat, world: World):
    world.teacher.reset(streaming_calls("a1", "b2"))
    chunks = list(chat().bind_tools([locate]).stream(EASY))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert [call["args"] for call in whole.tool_calls] == [{"parcel": "a1"}, {"parcel": "b2"}]


def test_a_structured_answer_is_parsed(chat, world: World):
    saying(world, '{"city": "Ghent", "days": 3}')
    found = chat().with_structured_output(Parcel, method="json_schema").invoke(EASY)
    assert found == Parcel(city="Ghent", days=3)
    assert asked(world)["response_format"]["type"] == "json_schema"


def test_the_gateways_errors_are_openais_exceptions(chat, world: World):
    refusal = b'{"error":{"message":"slower","type":"t","param":null,"code":"rate_limit_exceeded"}}'
    world.teacher.reset(Script(status=429, body=refusal))
    with pytest.raises(openai.RateLimitError):
        chat(model="teacher").invoke(EASY)
    with pytest.raises(openai.RateLimitError):
        list(chat(model="teacher").stream(EASY))
    with pytest.raises(openai.AuthenticationError):
        chat(api_key="sk-wrong").invoke(EASY)
    with pytest.raises(openai.NotFoundError):
        chat(model="gpt-17").invoke(EASY)
