"""Training the upper layers only, with what the frozen ones say computed once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distill import frozen
from distill.collate import Example, ExampleSet, collate
from distill.train import StopFlag, train
from distill.train_config import TrainConfig

Rows = Callable[..., list[Example]]
Written = Callable[[list[Example]], Path]


def trained(tmp_path: Path, name: str, weights: Path, examples: Path) -> dict[str, torch.Tensor]:
    job = tmp_path / name
    job.mkdir()
    config = TrainConfig(
        weights=str(weights),
        examples=str(examples),
        output=str(job / "out"),
        train_layers=1,
        epochs=2,
        batch_size=4,
        learning_rate=1e-3,
        dtype="float32",
    )
    train(config, job, StopFlag())
    return load_file(job / "out" / "model.safetensors")


def test_keeping_the_frozen_layers_output_trains_the_same_weights_as_running_them_each_time(
    tmp_path: Path, tiny: Path, rows: Rows, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = written(rows(10))
    kept = trained(tmp_path, "kept", tiny, examples)
    monkeypatch.setattr(frozen, "MAX_BYTES", 0)
    run_each_time = trained(tmp_path, "run", tiny, examples)
    assert kept.keys() == run_each_time.keys()
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, run_each_time[name], rtol=1e-4, atol=1e-5)


def test_only_the_uppermost_layer_changes(tmp_path: Path, tiny: Path, rows: Rows, written: Written) -> None:
    before = load_file(tiny / "model.safetensors")
    after = trained(tmp_path, "job", tiny, written(rows(10)))
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("model.layers.2.") for name in changed)
    assert {name for name in changed if not name.startswith("model.layers.2.")} <= {"model.norm.weight"}


def test_hidden_states_of_a_row_do_not_depend_on_its_neighbours(tiny: Path, rows: Rows) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    examples = ExampleSet(rows(9))
    together = frozen.hidden_examples(model, 1, examples, lambda _: None)
    for number, example in enumerate(examples):
        alone = frozen.hidden_examples(model, 1, ExampleSet([example]), lambda _: None)
        torch.testing.assert_close(together[number][1], alone[0][1], rtol=1e-4, atol=1e-5)
        assert together[number][1].shape == (len(example), 64)


def test_the_whole_model_is_put_together_again(tiny: Path, rows: Rows) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    batch = collate(rows(2), 0, 1)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        before = model(**inputs).logits
        lower = frozen.upper_layers_only(model, 2)
        assert len(model.model.layers) == 2
        frozen.restore_layers(model, lower)
        torch.testing.assert_close(model(**inputs).logits, before)
