"""Weights that two processes have in parts: the same training as by one that has them whole."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import TrainingArguments

from distill.child import environment
from distill.collate import Example
from distill.progress import read_progress
from distill.settings import DistillSettings, TrainingSettings
from distill.sharding import arguments
from distill.train import prepared
from distill.train_config import ConfigError, TrainConfig
from serving.server import free_port
from tests.unit.distill.training import ended, same_curves, steps, until

Rows = Callable[..., list[Example]]
Written = Callable[[list[Example]], Path]
FSDP = TrainConfig(
    weights="w",
    examples="e",
    output="o",
    engine="torchrun",
    processes=2,
    sharding="fsdp",
    gradient_checkpointing=True,
)

ON_CPUS = """
import os, sys
from pathlib import Path
from accelerate import state
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from distill import sharding, train

usual, gathered = state.AcceleratorState.__init__, sharding.gathered

def divided(self, *args, fsdp_plugin=None, **named):
    usual(self, *args, fsdp_plugin=fsdp_plugin, **named)
    if fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP
        state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin

def counted(model, plain):
    parts = [p for p in model.parameters() if isinstance(p, DTensor) and p.to_local().numel() < p.numel()]
    Path(sys.argv[1], "parts-" + os.environ["RANK"]).write_text(f"{len(parts)} of {len(list(model.parameters()))}")
    return gathered(model, plain)

state.AcceleratorState.__init__, sharding.gathered, sharding.has_devices = divided, counted, lambda: True
sys.exit(train.main(sys.argv[1:]))
"""
"""A trainer whose accelerate takes two CPUs for two GPUs, since none are here: all else of FSDP2 is the real one."""


def two(config: TrainConfig, job: Path) -> list["subprocess.Popen[bytes]"]:
    job.mkdir(exist_ok=True)
    (job / "train.json").write_bytes(msgspec.json.encode(config))
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", **prepared(1)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", ON_CPUS, str(job)],
            env=environment(os.environ) | meet | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=(job / f"stderr-{rank}").open("wb"),
        )
        for rank in "01"
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_parts_of_the_weights_learn_what_the_whole_does_also_after_a_kill(
    alone, rows: Rows, written: Written, tmp_path: Path
):
    config, weights = alone(
        written(rows(43)), validation_share=0.2, patience=9, save_steps=3, engine="torchrun", sharding="none"
    )
    config = msgspec.structs.replace(config, sharding="fsdp")
    job = tmp_path / "job"
    killed = two(config, job)
    until(lambda: steps(job) or any(process.poll() for process in killed))
    for process in killed:
        process.kill()
        ended(process)
    assert steps(job), (job / "stderr-0").read_text()
    before = read_progress(job / "progress.jsonl")[0].time
    assert [ended(process) for process in two(config, job)] == [0, 0], (job / "stderr-0").read_text()
    assert read_progress(job / "progress.jsonl")[0].time == before, "it went on from the checkpoint"
    same_curves(tmp_path / "alone", job)
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert_close(tensor, weights[name], rtol=1e-3, atol=1e-4, msg=name)
    for rank in "01":
        parts, _, all_of_them = (job / f"parts-{rank}").read_text().partition(" of ")
        assert parts == all_of_them


def test_transformers_takes_the_arguments_as_fsdp2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("distill.sharding.has_devices", lambda: True)
    read = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **arguments(FSDP))
    assert read.fsdp_plugin_args["fsdp_version"] == 2
    assert read.fsdp_plugin_args["auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    assert read.fsdp_plugin_args["state_dict_type"] == "FULL_STATE_DICT"
    assert read.fsdp_plugin_args["reshard_after_forward"] is True
    assert read.fsdp_plugin_args["activation_checkpointing"] is True
    assert not read.gradient_checkpointing, "one of the two"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_gpus_it_is_refused_and_not_left_out():
    with pytest.raises(ConfigError, match="needs CUDA GPUs"):
        arguments(FSDP)


@pytest.mark.parametrize(
    ("engine", "training", "message"),
    [
        ("local", {}, 'needs engine = "torchrun" or "ray"'),
        ("ray", {"lora_rank": 8}, "unset lora_rank"),
        ("torchrun", {"train_layers": 2}, "unset train_layers"),
        ("torchrun", {"on_policy_share": 0.5, "teacher_weights": "t"}, "unset on_policy_share"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_settings(engine, training, message):
    with pytest.raises(ValueError, match=message):
        DistillSettings(engine=engine, sharding="fsdp", training=TrainingSettings(**training))
