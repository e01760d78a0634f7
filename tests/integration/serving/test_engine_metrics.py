"""The figures that the page Serving shows, read from a real vLLM by the gateway's own client."""

import httpx
import pytest

from gateway.upstream import open_client
from serving.engine_metrics import EngineFigures, Rates, read_figures

pytestmark = pytest.mark.engine
TOKENS = 8


async def test_a_real_engine_tells_every_figure_and_counts_the_tokens_that_it_generates(tiny_engine):
    body = {"model": tiny_engine.model, "prompt": "hello", "max_tokens": TOKENS, "ignore_eos": True}
    url, rates = f"{tiny_engine.base_url}/v1", Rates()
    async with open_client() as client, httpx.AsyncClient(timeout=60) as asking:
        before = await read_figures(client, url)
        (await asking.post(f"{url}/completions", json=body)).raise_for_status()
        after = await read_figures(client, url)
    assert before is not None
    assert after is not None
    assert [name for name in EngineFigures.__struct_fields__ if getattr(after, name) is None] == []
    assert after.generation_tokens - before.generation_tokens == TOKENS
    assert rates.add(url, before, 0) is None
    assert rates.add(url, after, 2).generation == TOKENS / 2
