"""The training process: what it learns, writes, survives and refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distill.collate import Example
from distill.progress import read_progress
from distill.train import StopFlag, Stopped, main, train
from distill.train_config import TrainConfig, TrainResult
from distill.trainer import newest_checkpoint
from tests.unit.distill.training import StopAt, config_of, wait_for_step

Rows = Callable[..., list[Example]]
Written = Callable[[list[Example]], Path]


def run(config: TrainConfig, job: Path, stop: StopFlag | None = None) -> TrainResult:
    job.mkdir(exist_ok=True)
    train(config, job, stop or StopFlag())
    return msgspec.json.decode((job / "result.json").read_bytes(), type=TrainResult)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_tiny_model_learns_eight_answers_by_heart(tiny: Path, rows: Rows, written: Written, tmp_path: Path):
    examples = rows(8)
    config = config_of(
        tmp_path, tiny, written(examples), epochs=60, batch_size=8, learning_rate=5e-3, freeze_embeddings=False
    )
    result = run(config, tmp_path / "job")
    losses = [line.loss for line in read_progress(tmp_path / "job" / "progress.jsonl")]
    assert losses[-1] < 0.1 * losses[0]
    assert result.steps == 60
    assert result.examples == 8
    assert result.tokens == 60 * sum(map(len, examples))
    assert result.final_loss == losses[-1]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for row in examples:
        prompt = torch.tensor([row.prompt_ids])
        said = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
        assert said[0, len(row.prompt_ids) :].tolist() == row.answer_ids


def test_the_output_has_the_sources_companions_and_dtype(
    model_folder: Callable[..., Path], rows: Rows, written: Written, tmp_path: Path
):
    source = model_folder(dtype=torch.bfloat16)
    run(config_of(tmp_path, source, written(rows(8)), epochs=1), tmp_path / "job")
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    before, after = weights_of(source), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"]), "frozen"
    assert not torch.equal(*(weights["model.layers.0.mlp.up_proj.weight"] for weights in (before, after)))


def test_layers_are_cut_first_when_asked(tiny: Path, rows: Rows, written: Written, tmp_path: Path):
    run(config_of(tmp_path, tiny, written(rows(8)), layers=[0, 2], epochs=1), tmp_path / "job")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 2


def test_the_same_seed_gives_equal_weights_and_another_seed_others(
    tiny: Path, rows: Rows, written: Written, tmp_path: Path
):
    examples = written(rows(24))
    outs = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(config_of(tmp_path, tiny, examples, seed=seed, output=str(tmp_path / name)), tmp_path / f"job-{name}")
        outs.append(weights_of(tmp_path / name))
    assert all(torch.equal(tensor, outs[1][name]) for name, tensor in outs[0].items())
    assert any(not torch.equal(tensor, outs[2][name]) for name, tensor in outs[0].items())


@pytest.mark.parametrize("looks", [4, 7, 9], ids=["in the first epoch", "between epochs", "in the second epoch"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    tiny: Path, rows: Rows, written: Written, tmp_path: Path, looks: int
):
    examples = written(rows(24, soft=2))
    whole = config_of(tmp_path, tiny, examples, output=str(tmp_path / "whole"))
    run(whole, tmp_path / "job-whole")
    parts = config_of(tmp_path, tiny, examples, output=str(tmp_path / "parts"))
    job = tmp_path / "job"
    with pytest.raises(Stopped):
        run(parts, job, StopAt(looks))
    assert newest_checkpoint(job / "checkpoints") == str(job / "checkpoints" / f"checkpoint-{looks - 1}")
    half = job / "checkpoints" / "checkpoint-999"
    shutil.copytree(job / "checkpoints" / f"checkpoint-{looks - 1}", half)
    (half / "trainer_state.json").write_text('{"global_step": 99')
    result = run(parts, job)

    expected = {line.step: line.loss for line in read_progress(tmp_path / "job-whole" / "progress.jsonl")}
    lines = read_progress(job / "progress.jsonl")
    assert not half.exists()
    assert [line.step for line in lines] == list(range(1, 13))
    assert {line.step: line.loss for line in lines} == pytest.approx(expected, rel=1e-5)
    assert [line.tokens for line in lines] == sorted(line.tokens for line in lines)
    assert result.tokens == 2 * sum(map(len, rows(24, soft=2)))
    for name, tensor in weights_of(tmp_path / "whole").items():
        torch.testing.assert_close(weights_of(tmp_path / "parts")[name], tensor, msg=name)


def test_a_run_asked_to_stop_before_it_began_trains_nothing(tiny: Path, rows: Rows, written: Written, tmp_path: Path):
    with pytest.raises(Stopped):
        run(config_of(tmp_path, tiny, written(rows(4))), tmp_path / "job", StopAt(1))
    assert not (tmp_path / "out").exists()


def test_a_finished_job_run_again_does_nothing(tiny: Path, rows: Rows, written: Written, tmp_path: Path):
    config = config_of(tmp_path, tiny, written(rows(4)), epochs=1)
    first = run(config, tmp_path / "job")
    assert run(config, tmp_path / "job") == first


def test_an_adapter_is_merged_into_a_plain_model_folder(tiny: Path, rows: Rows, written: Written, tmp_path: Path):
    config = config_of(tmp_path, tiny, written(rows(16)), lora_rank=4, learning_rate=1e-2, epochs=3)
    with pytest.raises(Stopped):
        run(config, tmp_path / "job", StopAt(4))
    run(config, tmp_path / "job")
    before, after = weights_of(tiny), weights_of(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter",
        *(path.name for path in tiny.iterdir()),
    }
    assert before.keys() == after.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "proj" in name}
    losses = [line.loss for line in read_progress(tmp_path / "job" / "progress.jsonl")]
    assert losses[-1] < losses[0]


def test_bfloat16_autocast_reaches_the_layers(tiny: Path, rows: Rows, written: Written, tmp_path: Path):
    outs = []
    for dtype in ("float32", "bfloat16"):
        config = config_of(tmp_path, tiny, written(rows(8)), dtype=dtype, epochs=1, output=str(tmp_path / dtype))
        outs.append(run(config, tmp_path / f"job-{dtype}").final_loss)
    assert outs[0] != outs[1]
    assert outs[0] == pytest.approx(outs[1], rel=0.02)


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `main` sets for its process, put back afterwards; set before, so that it does not start anew."""
    for name, value in {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "2",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def write_config(job: Path, config: TrainConfig, **changes: Any) -> Path:
    job.mkdir()
    (job / "train.json").write_text(json.dumps(msgspec.to_builtins(config) | changes))
    return job


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"tail": "drop"}, "tail"),
        ({"divergence": "reverse_kl"}, "infinite"),
        ({"epoch": 3}, "epoch"),
        ({"weights": "/nowhere"}, "/nowhere/config.json"),
        ({"examples": "/nowhere.jsonl"}, "/nowhere.jsonl"),
        ({"layers": [7]}, "[7]"),
        ({"max_length": 2}, "at most 2 tokens"),
    ],
    ids=[
        "out of range",
        "not a choice",
        "no such mix",
        "unknown key",
        "no weights",
        "no examples",
        "no such layer",
        "too long",
    ],
)
def test_a_bad_configuration_is_one_line_and_status_two(
    own_process: None, tiny: Path, rows: Rows, written: Written, tmp_path: Path, capsys, changes: dict, named: str
):
    job = write_config(tmp_path / "job", config_of(tmp_path, tiny, written(rows(4))), **changes)
    assert main([str(job)]) == 2
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1


def test_a_missing_configuration_and_a_missing_argument_are_status_two(own_process: None, tmp_path: Path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "train.json" in capsys.readouterr().err
    assert main([]) == 2


def test_a_loss_that_is_not_finite_fails_the_job_in_one_line(
    own_process: None, tiny: Path, rows: Rows, written: Written, tmp_path: Path, capsys
):
    bad = rows(4)
    bad[0].soft_logprobs[0][0] = 1e38
    config = config_of(tmp_path, tiny, written(bad), temperature=1e-3)
    job = write_config(tmp_path / "job", config)
    assert main([str(job)]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "distill.train: FloatingPointError: the loss is nan at step 1"
    assert "Traceback" in (job / "traceback.txt").read_text()
    assert not (tmp_path / "out").exists()


def test_a_process_stopped_and_then_killed_ends_with_the_weights_of_an_undisturbed_run(
    tiny: Path, rows: Rows, written: Written, tmp_path: Path
):
    examples = written(rows(24, soft=2))
    fields: dict[str, Any] = {"epochs": 20, "save_steps": 20}
    run(config_of(tmp_path, tiny, examples, output=str(tmp_path / "whole"), **fields), tmp_path / "job-whole")
    config = config_of(tmp_path, tiny, examples, **fields)
    job = write_config(tmp_path / "job", config)

    term = start(job)
    wait_for_step(job, 10, term)
    term.send_signal(signal.SIGTERM)
    assert term.wait(60) == 143
    assert term.stderr is not None
    assert term.stderr.read() == b""
    stopped_at = read_progress(job / "progress.jsonl")[-1].step
    assert newest_checkpoint(job / "checkpoints") == str(job / "checkpoints" / f"checkpoint-{stopped_at}")

    killed = start(job)
    wait_for_step(job, stopped_at + 40, killed)
    killed.kill()
    assert killed.wait(60) == -signal.SIGKILL

    run(config, job)
    for name, tensor in weights_of(tmp_path / "whole").items():
        torch.testing.assert_close(weights_of(tmp_path / "out")[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def start(job: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    return subprocess.Popen(
        [sys.executable, "-m", "distill.train", str(job)], stderr=subprocess.PIPE, env=environment
    )
