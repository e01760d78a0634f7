"""The engine as its users meet it: a real vLLM, its answers, and the parity check against its own weights."""

import httpx
import pytest
from safetensors.numpy import load_file, save_file

from serving.parity import compare, probe_logprobs, trained_logprobs
from tests.engine_fixtures import save_tiny_model

pytestmark = pytest.mark.engine

PROBES = [[5, 60, 700, 8000, 41], [1, 2], list(range(300, 345))]
TOLERANCE = 1e-3


@pytest.fixture
async def client():
    async with httpx.AsyncClient(timeout=60) as opened:
        yield opened


async def test_a_chat_answer_carries_logprobs_and_the_release(tiny_engine, client):
    body = {
        "model": tiny_engine.model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 4,
        "logprobs": True,
        "top_logprobs": 20,
    }
    answer = await client.post(f"{tiny_engine.base_url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert answer.json()["system_fingerprint"] == tiny_engine.release
    assert [len(token["top_logprobs"]) for token in choice["logprobs"]["content"]] == [20] * 4


async def test_the_engine_serves_metrics_and_only_its_own_name(tiny_engine, client):
    models = (await client.get(f"{tiny_engine.base_url}/v1/models")).json()
    metrics = await client.get(f"{tiny_engine.base_url}/metrics")
    assert [model["id"] for model in models["data"]] == [tiny_engine.model]
    assert "vllm:generation_tokens_total" in metrics.text


async def test_the_served_model_is_within_a_thousandth_of_the_trained_one(tiny_engine, client):
    served = await probe_logprobs(tiny_engine.base_url, tiny_engine.model, PROBES, client)
    report = compare(served, trained_logprobs(tiny_engine.folder, PROBES), TOLERANCE)
    assert report.within, report
    assert report.tokens == sum(len(probe) - 1 for probe in PROBES)


async def test_weights_changed_after_the_start_fail_the_parity_check(tiny_engine, client, tmp_path):
    changed = save_tiny_model(tmp_path / "changed")
    tensors = load_file(changed / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1.02
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    served = await probe_logprobs(tiny_engine.base_url, tiny_engine.model, PROBES, client)
    report = compare(served, trained_logprobs(changed, PROBES), TOLERANCE)
    assert not report.within, report
