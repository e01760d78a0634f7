"""pydantic-ai's agents against the gateway."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.conformance.scripts import calling, saying, streaming_calls
from tests.gateway_fixtures import EASY, World
from tests.scripted_upstream import Script


class Parcel(BaseModel):
    """What a structured answer is to look like."""

    city: str
    days: int


@pytest.fixture
def agent(world: World) -> Callable[..., Agent]:
    """Make an agent: ``agent(model=..., key=..., **options)``."""

    def make(model: str = "auto", key: str | None = None, **options: Any) -> Agent:
        provider = OpenAIProvider(base_url=f"{world.url}/v1", api_key=key or world.secrets["inference"])
        return Agent(OpenAIChatModel(model, provider=provider), retries=0, **options)

    return make


async def test_an_agent_is_answered_with_its_usage(agent):
    result = await agent().run(EASY)
    assert result.output == "The student says good day."
    assert (result.usage.input_tokens, result.usage.output_tokens) == (11, 5)


async def test_an_agents_stream_comes_in_pieces(agent):
    async with agent().run_stream(EASY) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == "The student says good day."
    assert len(pieces) > 2
    assert result.usage.input_tokens == 11


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_calls_its_tools_and_goes_on(agent, world: World, stream: bool):
    located: list[str] = []

    def locate(parcel: str) -> str:
        located.append(parcel)
        return f"{parcel} is in Ghent"

    calls = (streaming_calls if stream else calling)("a1", "b2")
    world.teacher.reset(Script(text="They are in Ghent."), [calls])
    helper = agent(tools=[locate])
    if stream:
        async with helper.run_stream(EASY) as result:
            output = await result.get_output()
    else:
        output = (await helper.run(EASY)).output
    assert (output, sorted(located)) == ("They are in Ghent.", ["a1", "b2"])
    sent = world.teacher.seen[1].body["messages"]
    assert sorted(m["content"] for m in sent if m["role"] == "tool") == ["a1 is in Ghent", "b2 is in Ghent"]


async def test_a_structured_answer_is_parsed(agent, world: World):
    saying(world, '{"city": "Ghent", "days": 3}')
    result = await agent(output_type=NativeOutput(Parcel)).run(EASY)
    assert result.output == Parcel(city="Ghent", days=3)


@pytest.mark.parametrize(
    ("options", "status"), [({"key": "sk-wrong"}, 401), ({"model": "gpt-17"}, 404), ({"model": "teacher"}, 429)]
)
async def test_the_gateways_errors_are_the_librarys_own(agent, world: World, options, status: int):
    refusal = b'{"error":{"message":"slower","type":"t","param":null,"code":"insufficient_quota"}}'
    world.teacher.reset(Script(status=429, body=refusal))
    with pytest.raises(ModelHTTPError) as raised:
        await agent(**options).run(EASY)
    assert raised.value.status_code == status
