"""Cutting a smaller student out of a model folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.student import make_student, new_folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shard", ["1GB", "100KB"], ids=["one file", "sharded"])
def test_chosen_layers_are_kept_bit_for_bit(model_folder: Callable[..., Path], tmp_path: Path, dtype, shard: str):
    source = model_folder(tied=False, dtype=dtype, shard=shard)
    make_student(source, [2, 0], tmp_path / "student")
    before, after = tensors(source), tensors(tmp_path / "student")
    origin = {"layers.0.": "layers.2.", "layers.1.": "layers.0."}
    for name, tensor in after.items():
        place = next((old for old in origin if old in name), "")
        source_tensor = before[name.replace(place, origin[place])] if place else before[name]
        assert tensor.dtype == dtype
        assert torch.equal(tensor, source_tensor), name
    assert len(after) == len(before) - sum("layers.1." in name for name in before)


def test_the_student_loads_and_computes_what_its_layers_compute(tiny: Path, tmp_path: Path):
    make_student(tiny, [0, 2], tmp_path / "student")
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    whole = AutoModelForCausalLM.from_pretrained(tiny)
    del whole.model.layers[1]
    ids = torch.arange(1, 9).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(student(ids).logits, whole(ids, use_cache=False).logits)
    assert student.config.num_hidden_layers == 2


def test_tokenizer_and_chat_template_come_along_byte_for_byte(tiny: Path, tmp_path: Path):
    make_student(tiny, [0], tmp_path / "student")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "student" / name).read_bytes() == (tiny / name).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "student").chat_template


def test_a_list_of_layer_types_follows_the_layers(model_folder: Callable[..., Path], tmp_path: Path):
    source = model_folder()
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"layer_types": ["a", "b", "c"]}))
    make_student(source, [2, 0], tmp_path / "student")
    assert json.loads((tmp_path / "student" / "config.json").read_text())["layer_types"] == ["c", "a"]


@pytest.mark.parametrize("layers", [[], [3], [-1]], ids=["none", "too high", "negative"])
def test_layers_that_are_not_there_are_refused_and_leave_nothing(tiny: Path, tmp_path: Path, layers: list[int]):
    with pytest.raises(ValueError, match="not a choice"):
        make_student(tiny, layers, tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_overwritten(tiny: Path, tmp_path: Path):
    with pytest.raises(FileExistsError):
        make_student(tiny, [0], tmp_path)


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path):
    with pytest.raises(RuntimeError, match="half"), new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "out").exists()
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []
