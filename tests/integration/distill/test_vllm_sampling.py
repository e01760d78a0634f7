"""On-policy distillation on what a real vLLM of the student answers."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from distill import student_engine
from distill.collate import Example
from distill.progress import read_progress
from distill.sampling import Answer
from distill.student import make_student
from distill.student_engine import SamplerError, StudentEngine, sampler_of
from distill.student_model import load_student
from distill.train import StopFlag, train
from distill.train_config import ConfigError, TrainConfig
from tests.engine_fixtures import READY_SECONDS, family, save_tiny_model, smollm2_tokenizer, survivors
from tests.unit.distill.training import wait_for_step

pytestmark = [pytest.mark.engine, pytest.mark.timeout(4 * READY_SECONDS)]

TEMPERATURE = 0.7
SHORT = ["Where is my parcel?", "hello", "The invoice is wrong.", "Please help me with a refund."]
NEAR = 2e-3
"""Nats at `TEMPERATURE` between two engines' float32."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("teacher") / "model")


@pytest.fixture(scope="module")
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "model"
    make_student(teacher, [1], folder)
    return folder


@pytest.fixture
def config_of(student: Path, teacher: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A configuration by the name of its job: samples of six tokens in each of sixteen steps."""
    tokenizer = smollm2_tokenizer()
    ids = [tokenizer(f"{text} {n}").input_ids for n in range(8) for text in SHORT]
    examples = tmp_path / "examples.jsonl"
    examples.write_bytes(b"".join(msgspec.json.encode(Example(row, [1])) + b"\n" for row in ids))

    def make(name: str, **fields: Any) -> TrainConfig:
        defaults: dict[str, Any] = {
            "weights": str(student), "examples": str(examples), "output": str(tmp_path / name / "out"),
            "teacher_weights": str(teacher), "on_policy_share": 1.0, "sampler": "vllm", "sample_tokens": 6,
            "sample_temperature": TEMPERATURE, "divergence": "reverse_kl", "epochs": 4, "batch_size": 8,
            "learning_rate": 1e-2, "dtype": "float32", "max_length": 512, "save_steps": 4, "warmup_ratio": 0.0,
        }  # fmt: skip
        (tmp_path / name).mkdir(exist_ok=True)
        return TrainConfig(**(defaults | fields))

    return make


@pytest.fixture
def engine(config_of: Callable[..., TrainConfig], student: Path, tmp_path: Path) -> Iterator[StudentEngine]:
    made = StudentEngine(config_of("engine", sample_refresh_steps=2), tmp_path / "engine", student)
    yield made
    made.close()


def scored(model: PreTrainedModel, prompt: list[int], answer: Answer) -> list[float]:
    """The log-probabilities that the model itself has for a drawn answer's tokens."""
    ids = torch.tensor([prompt + answer.ids])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0, len(prompt) - 1 : -1] / TEMPERATURE, -1)
    return logprobs.gather(1, torch.tensor(answer.ids)[:, None])[:, 0].tolist()


def off(model: PreTrainedModel, prompts: list[list[int]], answers: list[Answer]) -> float:
    """The largest distance of what tokens were drawn with from what the model has."""
    pairs = [
        (one, other)
        for prompt, answer in zip(prompts, answers, strict=True)
        for one, other in zip(scored(model, prompt, answer), answer.logprobs or [], strict=True)
    ]
    assert len(pairs) == sum(len(answer.ids) for answer in answers) > 0
    return max(abs(one - other) for one, other in pairs)


def servers() -> set[psutil.Process]:
    """Those of this process, of other tests too."""
    found: set[psutil.Process] = set()
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found |= {each} if "vllm" in " ".join(each.cmdline()) else set()
    return found


def changed(model: PreTrainedModel) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in model.get_decoder().layers.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)


def test_training_on_its_samples_lowers_the_loss_as_on_local_ones_and_a_killed_trainer_goes_on(
    config_of: Callable[..., TrainConfig], tmp_path: Path
):
    # nearly greedy, so that both samplers draw much the same tokens
    local = config_of("local", sampler="local", sample_temperature=0.01)
    train(local, tmp_path / "local", StopFlag())
    served = config_of("served", sample_temperature=0.01)
    job = tmp_path / "served"
    (job / "train.json").write_bytes(msgspec.json.encode(served))
    with subprocess.Popen([sys.executable, "-m", "distill.train", str(job)], stderr=subprocess.PIPE) as trainer:
        try:
            wait_for_step(job, 6, trainer, 2 * READY_SECONDS)
            processes = family(trainer.pid)
            assert any("vllm" in " ".join(each.cmdline()) for each in processes)
        finally:
            trainer.kill()
    assert survivors(processes, 20) == [], "a killed trainer's server ends with it"
    assert list(job.glob("checkpoints/checkpoint-*/trainer_state.json"))

    others = servers()
    train(served, job, StopFlag())
    losses, expected = (
        [line.loss for line in read_progress(each / "progress.jsonl")] for each in (job, tmp_path / "local")
    )
    assert len(losses) == 16
    assert sum(losses) == pytest.approx(sum(expected), rel=0.05)
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])
    assert servers() <= others, "its server ends with the run"


def test_samples_are_of_the_students_weights_at_the_last_refresh_and_outlive_a_killed_server(
    engine: StudentEngine, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    before = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    tokenizer = smollm2_tokenizer()
    # the long one fills blocks of the prefix cache, which must not outlive the weights
    prompts = [tokenizer(text).input_ids for text in [*SHORT, " ".join(SHORT * 25)]]
    batches = [prompts[:2], prompts[2:]]

    def drawn(step: int) -> list[Answer]:
        answers = engine.answers(model, batches, step)
        assert list(map(len, answers)) == [2, 3]
        return [answer for batch in answers for answer in batch]

    first = drawn(0)
    assert off(before, prompts, first) < NEAR
    assert all(1 <= len(answer.ids) <= 6 for answer in first)
    assert [answer.ids for answer in drawn(0)] == [answer.ids for answer in first], "the seed decides"
    assert len({tuple(answer.ids) for answer in first}) == len(first), "each row has a seed of its own"

    changed(model)
    assert off(before, prompts, drawn(1)) < NEAR, "the refresh is not due yet"
    fresh = drawn(2)
    assert off(model, prompts, fresh) < NEAR
    assert off(before, prompts, fresh) > 50 * NEAR
    assert [path.name for path in (tmp_path / "engine" / "sampler").iterdir()] == ["step-2"]

    killed = engine.server.pid
    os.killpg(killed, signal.SIGKILL)
    assert [answer.ids for answer in drawn(2)] == [answer.ids for answer in fresh]
    assert engine.server.pid != killed

    monkeypatch.setattr(student_engine, "RESTARTS", 2)
    (tmp_path / "engine" / "sampler" / "step-2" / "model.safetensors").write_bytes(b"torn")
    os.killpg(engine.server.pid, signal.SIGKILL)
    with pytest.raises(SamplerError, match=r"gave no samples: the engine ended after \d+ s .*sampler\.log ends: \S"):
        drawn(2)
    assert engine.server is None


def test_what_the_server_takes_of_an_adapter_is_the_student_with_it(
    config_of: Callable[..., TrainConfig], student: Path, tmp_path: Path
):
    config = config_of("adapter", lora_rank=2)
    model = load_student(config, student)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_B" in name:
                tensor.add_(torch.randn_like(tensor))
    engine = StudentEngine(config, tmp_path / "adapter", student)
    written = AutoModelForCausalLM.from_pretrained(engine._newest(model, 0).weights, dtype=torch.float32)
    ids = torch.tensor([smollm2_tokenizer()(SHORT[0]).input_ids])
    plain = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    with torch.no_grad():
        logits = written(ids).logits
        assert torch.allclose(logits, model(ids).logits, atol=1e-4)
        assert not torch.allclose(logits, plain(ids).logits, atol=0.1)


def test_without_vllm_the_configuration_is_refused(
    config_of: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(student_engine, "find_spec", lambda _: None)
    with (
        pytest.raises(ConfigError, match='needs vLLM where the trainer runs: install it, or take "local"'),
        sampler_of(config_of("none"), tmp_path, tmp_path),
    ):
        pass
