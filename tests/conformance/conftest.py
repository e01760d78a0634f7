"""The gateway's world, for this folder, and OpenAI's own clients of it."""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.gateway_fixtures import (
    World,
    module_world,
    module_world_without_release,
    router,
    world,
    world_without_release,
)

__all__ = (
    "module_world",
    "module_world_without_release",
    "router",
    "world",
    "world_without_release",
)


@pytest.fixture
def client(world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.secrets["inference"], max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    key = world.secrets["inference"]
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=key, max_retries=0) as client:
        yield client
