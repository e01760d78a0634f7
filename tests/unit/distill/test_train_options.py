"""What a training process can be asked for: batches, adapters, teachers, validation, curves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from distill.collate import Example
from distill.progress import read_progress
from distill.student_model import load_student, merged
from distill.train import StopFlag, Stopped, main, train
from distill.train_config import ConfigError, TrainConfig, TrainResult
from tests.unit.distill.conftest import save_tokenizer
from tests.unit.distill.training import StopAt, config_of

Rows = Callable[..., list[Example]]
Written = Callable[[list[Example]], Path]
Weights = dict[str, torch.Tensor]


@pytest.fixture
def trained(tiny: Path, tmp_path: Path) -> Callable[..., tuple[Weights, TrainResult, Path]]:
    """Train the tiny model by name of the job: its weights, its result, its folder; stopped after steps first."""

    def run(name: str, examples: Path, *stops: int, **fields: Any) -> tuple[Weights, TrainResult, Path]:
        job = tmp_path / name
        job.mkdir()
        config = config_of(job, tiny, examples, **fields)
        for stop in stops:
            with pytest.raises(Stopped):
                train(config, job, StopAt(stop + 1))
        train(config, job, StopFlag())
        result = msgspec.json.decode((job / "result.json").read_bytes(), type=TrainResult)
        return load_file(job / "out" / "model.safetensors"), result, job

    return run


def losses_of(job: Path) -> list[float]:
    return [line.loss for line in read_progress(job / "progress.jsonl")]


def changed(before: Weights, after: Weights) -> set[str]:
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


TEACHER = {"epochs": 6, "learning_rate": 3e-3, "divergence": "reverse_kl"}
OPTIONS: dict[str, dict[str, Any]] = {
    "accumulated": {"accumulation_steps": 2},
    "packed": {"batching": "packed"},
    "adapter": {"lora_rank": 4, "learning_rate": 1e-2},
    "validated": {"validation_share": 0.25, "save_steps": 2},
    "on policy": {"on_policy_share": 0.5, "sample_tokens": 6},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_run_stopped_twice_ends_with_the_very_weights_of_an_undisturbed_one(
    trained, model_folder: Callable[..., Path], rows: Rows, written: Written, options: dict[str, Any]
):
    examples = written(rows(24, soft=2))
    if "on_policy_share" in options:
        options = options | {"teacher_weights": str(model_folder(tied=False))}
    whole, _, job = trained("whole", examples, **options)
    parts, _, resumed = trained("parts", examples, 3, 4, **options)
    assert losses_of(resumed) == losses_of(job)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("option", "rows_at_once"), [({"gradient_checkpointing": True}, 4), ({"accumulation_steps": 2}, 2)],
    ids=["activations computed again", "accumulated"],
)  # fmt: skip
def test_what_takes_less_memory_runs_a_layer_twice_and_gives_the_same_weights(
    trained, rows: Rows, written: Written, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any], rows_at_once: int
):
    runs: list[int] = []
    forward = LlamaMLP.forward

    def counted(layer: LlamaMLP, hidden: torch.Tensor) -> torch.Tensor:
        runs.append(len(hidden))
        return forward(layer, hidden)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    examples = written(rows(16))
    plain, _, _ = trained("plain", examples)
    once = len(runs)
    assert set(runs) == {4}
    again, _, job = trained("again", examples, **option)
    assert (len(runs), set(runs[once:])) == (3 * once, {rows_at_once})
    assert losses_of(job) == pytest.approx(losses_of(job.parent / "plain"), rel=1e-4)
    for name, tensor in plain.items():
        # Adam divides by what may be all but 0
        torch.testing.assert_close(again[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_progress_tells_what_is_left_at_the_rate_so_far(trained, rows: Rows, written: Written):
    _, _, job = trained("job", written(rows(16)))
    lines = read_progress(job / "progress.jsonl")
    assert [(line.step, line.steps) for line in lines] == [(step, 8) for step in range(1, 9)]
    for line in lines:
        assert line.eta_seconds == pytest.approx(line.seconds / line.step * (8 - line.step))
        assert line.tokens_per_second == pytest.approx(line.tokens / line.seconds)


def test_packed_batches_teach_what_padded_ones_do(trained, rows: Rows, written: Written):
    options: dict[str, Any] = {"epochs": 40, "learning_rate": 5e-3, "freeze_embeddings": False}
    for train_layers in (None, 1):
        _, result, job = trained(
            f"packed-{train_layers}", written(rows(12)), batching="packed", train_layers=train_layers, **options
        )
        losses = losses_of(job)
        assert losses[-1] < 0.5 * losses[0]
        assert result.tokens == 40 * sum(map(len, rows(12)))


def test_the_weights_of_the_lowest_validation_loss_are_kept(trained, rows: Rows, written: Written):
    # answers drawn at random are learned by heart, which makes those that are held out less likely
    options: dict[str, Any] = {"freeze_embeddings": False, "learning_rate": 5e-3, "save_steps": 2, "patience": 2}
    weights, result, job = trained("job", written(rows(24)), epochs=40, validation_share=0.25, **options)
    lines = read_progress(job / "progress.jsonl")
    measured = [line for n, line in enumerate(lines) if n and line.step == lines[n - 1].step]
    losses = [line.validation_loss for line in measured]
    best = losses.index(min(losses))
    assert result.stopped_early
    assert result.examples == 18
    assert len(losses) == best + 1 + options["patience"]
    assert result.validation_loss == losses[best]
    assert result.steps == measured[-1].step < 40 * 5
    # the weights of a run that ends at the best one's step
    until, _, _ = trained("until", written(rows(24)), 2 * (best + 1), epochs=40, validation_share=0.25, **options)
    assert all(torch.equal(tensor, until[name]) for name, tensor in weights.items())


def test_a_run_killed_when_it_had_stopped_early_only_writes_its_model(
    trained, tiny: Path, rows: Rows, written: Written
):
    options: dict[str, Any] = {
        "freeze_embeddings": False, "learning_rate": 5e-3, "save_steps": 2, "patience": 1, "epochs": 40,
        "validation_share": 0.25,
    }  # fmt: skip
    examples = written(rows(24))
    weights, _, job = trained("job", examples, **options)
    (job / "out").rename(job / "before")
    lines = losses_of(job)
    train(config_of(job, tiny, examples, **options), job, StopFlag())
    again = load_file(job / "out" / "model.safetensors")
    assert losses_of(job) == lines
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())


def teacher_of(tiny: Path, folder: Path) -> Path:
    """The tiny model with other layers."""
    model = AutoModelForCausalLM.from_pretrained(tiny)
    torch.manual_seed(7)
    with torch.no_grad():
        for tensor in model.get_decoder().layers.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny / name).read_bytes())
    return folder


@pytest.mark.parametrize(
    ("share", "more"),
    [(0.0, {}), (1.0, {}), (1.0, {"on_policy_gamma": 1.0}), (1.0, {"on_policy_early": 0.5})],
    ids=["the rows' answers", "sampled", "and what follows", "early tokens more"],
)
def test_a_local_teacher_is_approached(
    trained, tiny: Path, rows: Rows, written: Written, tmp_path: Path, share: float, more: dict[str, float]
):
    teacher = teacher_of(tiny, tmp_path / "teacher")
    options = TEACHER | {"teacher_weights": str(teacher), "on_policy_share": share, "sample_tokens": 6, "alpha": 1.0}
    _, _, job = trained("job", written(rows(64, soft=0)), **options | more)
    prompts = [torch.tensor([row.prompt_ids]) for row in rows(21)]
    p, before, after = (AutoModelForCausalLM.from_pretrained(each) for each in (teacher, tiny, job / "out"))

    def divergence(model: Any) -> float:
        with torch.no_grad():
            pairs = [(model(ids).logits.log_softmax(-1), p(ids).logits.log_softmax(-1)) for ids in prompts]
        return sum(float((q.exp() * (q - p_)).sum(-1).mean()) for q, p_ in pairs) / len(pairs)

    losses = losses_of(job)
    # what follows a token is a gradient's, and no distance
    assert "on_policy_gamma" in more or sum(losses[-4:]) < 0.7 * sum(losses[:4])
    assert divergence(after) < 0.7 * divergence(before)


@pytest.mark.parametrize("batching", ["bucketed", "packed"])
def test_a_local_teacher_with_another_vocabulary_is_approached_by_the_shape_of_what_it_says(
    trained, tiny: Path, rows: Rows, written: Written, tmp_path: Path, batching: str
):
    config = LlamaConfig(
        vocab_size=350, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(3)
    teacher = LlamaForCausalLM(config)
    with torch.no_grad():  # a teacher that is sure
        teacher.lm_head.weight.mul_(60.0)
    teacher.save_pretrained(tmp_path / "teacher")
    save_tokenizer(tmp_path / "teacher", ["quite", "another", "language"])
    examples = [
        msgspec.structs.replace(
            row,
            teacher_prompt_ids=[340, *row.prompt_ids],
            teacher_answer_ids=[301, *row.answer_ids],
            ends=[2 * n + 2 for n in range(len(row.answer_ids))],
            teacher_ends=[1, *(2 * n + 2 for n in range(len(row.answer_ids)))],
        )
        for row in rows(32, soft=0)
    ]
    options: dict[str, Any] = {"epochs": 8, "learning_rate": 5e-3, "alpha": 1.0, "freeze_embeddings": False}
    options |= {"teacher_weights": str(tmp_path / "teacher"), "batching": batching}
    _, _, job = trained("job", written(examples), **options)
    losses = losses_of(job)
    assert all(0 <= loss <= 2 for loss in losses)
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])


def test_an_adapter_of_named_layers_leaves_all_others_as_they_are(trained, tiny: Path, rows: Rows, written: Written):
    before = load_file(tiny / "model.safetensors")
    options: dict[str, Any] = {"lora_rank": 2, "lora_alpha": 8.0, "lora_targets": ("q_proj", "v_proj")}
    everywhere, _, _ = trained("everywhere", written(rows(8)), **options)
    above, _, _ = trained("above", written(rows(8)), train_layers=1, **options)
    wanted = {f"model.layers.{n}.self_attn.{name}.weight" for n in range(3) for name in ("q_proj", "v_proj")}
    assert changed(before, everywhere) == wanted
    assert changed(before, above) == {name for name in wanted if ".2." in name}


def test_an_adapter_merges_into_the_source_as_into_the_model_it_was_trained_on(tiny: Path):
    model: Any = load_student(config_of(tiny, tiny, tiny, lora_rank=2), tiny)
    torch.manual_seed(1)
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor)
    over_source = merged(model, tiny).state_dict()
    own = model.merge_and_unload().state_dict()
    assert all(torch.allclose(tensor, own[name]) for name, tensor in over_source.items())
    assert changed(load_file(tiny / "model.safetensors"), {k: v for k, v in own.items() if "lm_head" not in k})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_rank": 2, "lora_4bit": True}, "lora_4bit needs a CUDA GPU and bitsandbytes"),
        ({"lora_rank": 2, "lora_targets": ("w",)}, "no linear layer is named w"),
        ({"teacher_weights": "other", "on_policy_share": 0.5}, "has not the student's vocabulary"),
    ],
    ids=["four bits", "no such layer", "another vocabulary"],
)
def test_what_cannot_be_had_is_said_before_training(
    trained, tiny: Path, rows: Rows, written: Written, tmp_path: Path, fields: dict[str, Any], message: str
):
    if torch.cuda.is_available() and "lora_4bit" in fields:
        pytest.skip("this machine may have what it takes")
    if "teacher_weights" in fields:
        folder = teacher_of(tiny, tmp_path / "other")
        for file in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
            file.write_text(file.read_text().replace("<end>", "<halt>"))
        fields = fields | {"teacher_weights": str(tmp_path / "other")}
    with pytest.raises(ConfigError, match=message):
        trained("job", written(rows(4)), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"on_policy_share": 0.5}, "needs teacher_weights"),
        ({"on_policy_share": 0.5, "teacher_weights": "t", "batching": "packed"}, "bucketed"),
        ({"on_policy_early": 0.5, "teacher_weights": "t"}, "on_policy_early needs on_policy_share"),
        ({"on_policy_gamma": 1.0, "on_policy_share": 0.5, "teacher_weights": "t"}, "reverse_kl"),
        (
            {"sampler": "vllm", "on_policy_share": 0.5, "teacher_weights": "t", "sample_refresh_steps": 3},
            "divide save_",
        ),
        (
            {"sampler": "vllm", "on_policy_share": 0.5, "teacher_weights": "t", "sample_temperature": 0.001},
            "vLLM takes 0.01",
        ),
        ({"lora_4bit": True}, "needs lora_rank"),
        ({"accumulation_steps": 3}, "not a multiple"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0: must be above 0"),
        ({"validation_share": 0.9}, "validation_share = 0.9: must be from 0 to 0.5"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path, tmp_path, tmp_path, **fields)


def test_a_job_that_was_written_before_an_option_existed_reads_as_it_was_meant(tmp_path: Path):
    old = {"weights": "w", "examples": "e", "output": "o", "layers": [0, 2], "epochs": 5, "lora_rank": None}
    config = msgspec.convert(old, TrainConfig)
    assert (config.layers, config.epochs, config.batching, config.validation_share) == ((0, 2), 5, "bucketed", 0.0)


def test_curves_are_written_for_tensorboard(trained, rows: Rows, written: Written):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, _, job = trained("job", written(rows(8)), tensorboard=True, validation_share=0.25, save_steps=2)
    read = events.EventAccumulator(str(job / "tensorboard"))
    read.Reload()
    assert {"train/loss", "train/learning_rate", "eval/loss"} <= set(read.Tags()["scalars"])


def test_tensorboard_that_is_not_installed_is_said(
    trained, rows: Rows, written: Written, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("distill.train.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install"):
        trained("job", written(rows(4)), tensorboard=True)


def test_the_process_says_what_is_missing_in_one_line(tiny: Path, rows: Rows, written: Written, tmp_path, capsys):
    config = config_of(tmp_path, tiny, written(rows(4)), teacher_weights="/nowhere")
    (tmp_path / "train.json").write_bytes(msgspec.json.encode(config))
    assert main([str(tmp_path)]) == 2
    assert "/nowhere/config.json" in capsys.readouterr().err
