"""A tiny random Llama with a byte-level tokenizer, as a model folder, and rows for it."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.collate import Example
from distill.train import StopFlag, train
from distill.train_config import TrainConfig
from tests.unit.distill.fake_server import FakeServer, Script
from tests.unit.distill.training import SHARED, config_of

WORDS = ["card", "lost", "where", "is", "my", "transfer", "late", "please", "help", "refund"]
VOCABULARY = 300


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a model folder: ``model_folder(tied=..., dtype=..., shard=...)``."""

    def make(tied: bool = True, dtype: torch.dtype = torch.float32, shard: str = "1GB") -> Path:
        folder = tmp_path_factory.mktemp("model")
        save_tokenizer(folder)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=tied,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
        LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size=shard)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny(model_folder: Callable[..., Path]) -> Path:
    """The plain one, not to be written to."""
    return model_folder()


@pytest.fixture(scope="session")
def rows() -> Callable[..., list[Example]]:
    """Make rows: ``rows(count, soft=K)``."""
    return make_rows


@pytest.fixture
def written(tmp_path: Path) -> Callable[[list[Example]], Path]:
    """Write rows as JSON lines and give the path."""

    def write(examples: list[Example]) -> Path:
        path = tmp_path / f"rows-{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in examples))
        return path

    return write


@pytest.fixture
def alone(tiny: Path, tmp_path: Path) -> Callable[..., tuple[TrainConfig, dict[str, Any]]]:
    """Train in this process, by what `SHARED` says; gives the configuration and the weights that came of it."""

    def run(examples: Path, **fields: Any) -> tuple[TrainConfig, dict[str, Any]]:
        config = config_of(tmp_path, tiny, examples, **(SHARED | fields))
        (tmp_path / "alone").mkdir()
        train(config, tmp_path / "alone", StopFlag())
        (tmp_path / "out").rename(tmp_path / "alone" / "out")
        return config, load_file(tmp_path / "alone" / "out" / "model.safetensors")

    return run


def make_rows(count: int, soft: int = 3) -> list[Example]:
    """Rows of different lengths whose answers end with id 0; the label is the likeliest soft target."""
    chance = random.Random(count)
    rows: list[Example] = []
    for _ in range(count):
        prompt = [chance.randrange(1, VOCABULARY) for _ in range(chance.randrange(3, 14))]
        answer = [chance.randrange(1, VOCABULARY) for _ in range(chance.randrange(1, 5))]
        ids = [[label, *chance.sample(range(1, VOCABULARY), soft - 1)] for label in answer] if soft else []
        logs = [[-0.02, *[-6.0] * (soft - 1)] for _ in answer] if soft else []
        rows.append(Example(prompt, [*answer, 0], [*ids, []] if soft else [], [*logs, []] if soft else []))
    return rows


def save_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<end>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(words)] * 5, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    fast.save_pretrained(folder)


@pytest.fixture
def serve() -> Iterator[Callable[[Script], FakeServer]]:
    servers: list[FakeServer] = []

    def make(script: Script) -> FakeServer:
        servers.append(FakeServer(script))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
