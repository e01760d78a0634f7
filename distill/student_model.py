"""The models of a training process: the student with what is trained of it, its teacher, and what is saved of it."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, set_seed

from distill.sampling import Sampler, Sampling
from distill.student import copy_companions
from distill.train_config import ConfigError, TrainConfig
from distill.trainer import LocalTeacher, computes_bfloat16, freeze_embeddings, freeze_lower_layers

__all__ = ("dtype_of", "load_student", "load_teacher", "merged", "sampling_of", "save_student", "uses_bfloat16")


def uses_bfloat16(config: TrainConfig) -> bool:
    """Whether this run computes in bfloat16."""
    return computes_bfloat16() if config.dtype == "auto" else config.dtype == "bfloat16"


def load_student(config: TrainConfig, source: Path) -> PreTrainedModel:
    """The student in float32, with what is not trained frozen; or an adapter over it, or over four-bit weights.

    Raises:
        ConfigError: No layer bears a name of ``lora_targets``, or four bits are not to be had here.
    """
    torch.set_num_threads(config.threads)
    set_seed(config.seed)
    if config.lora_4bit:
        return _with_adapter(config, _four_bit(source))
    model = _load(source, torch.float32)
    if config.lora_rank is not None:
        return _with_adapter(config, model)
    if config.freeze_embeddings:
        freeze_embeddings(model)
    if config.train_layers is not None:
        freeze_lower_layers(model, config.train_layers)
    return model


def _load(source: Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, local_files_only=True, **options)


def _four_bit(source: Path) -> PreTrainedModel:
    """The frozen base of QLoRA (arXiv:2305.14314): NF4 with quantised constants."""
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        raise ConfigError(
            "lora_4bit needs a CUDA GPU and bitsandbytes (`pip install bitsandbytes`): without them, unset it, and "
            "the adapter is trained over float32 weights"
        )
    compute = torch.bfloat16 if computes_bfloat16() else torch.float32
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
    model = _load(source, compute, quantization_config=four_bits)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _with_adapter(config: TrainConfig, model: PreTrainedModel) -> PreTrainedModel:
    rank = cast("int", config.lora_rank)
    adapter = LoraConfig(
        r=rank,
        lora_alpha=cast("int", config.lora_alpha or 2 * rank),
        target_modules=_targets(config, model),
        task_type="CAUSAL_LM",
    )
    return cast("PreTrainedModel", get_peft_model(model, adapter))


def _targets(config: TrainConfig, model: PreTrainedModel) -> str | list[str]:
    """The layers that get an adapter: by name, and of the uppermost decoder layers only where only those train."""
    if config.train_layers is None and config.lora_targets is None:
        return "all-linear"
    within: Any = model
    if config.train_layers is not None:
        within = cast("Any", model.get_decoder()).layers[-config.train_layers :]
    inside = {id(module) for module in cast("nn.Module", within).modules()}
    wanted = config.lora_targets
    names = [
        name
        for name, module in cast("nn.Module", model).named_modules()
        if id(module) in inside
        and isinstance(module, nn.Linear)
        and module is not model.get_output_embeddings()
        and (wanted is None or name.rpartition(".")[2] in wanted)
    ]
    if not names:
        raise ConfigError(f"lora_targets: no linear layer is named {' or '.join(wanted or ())}")
    return names


def load_teacher(config: TrainConfig, student: Path, sampler: Sampler | None = None) -> LocalTeacher | None:
    """The local teacher, if there is one, in the student's precision; it scores the answers that ``sampler`` draws.

    Raises:
        ConfigError: Its tokens are not the student's and samples are to be scored, or they are and yet its logits are
            not as many.
    """
    if config.teacher_weights is None:
        return None
    folder = Path(config.teacher_weights)
    own, other = (AutoTokenizer.from_pretrained(each, local_files_only=True) for each in (student, folder))
    model = _load(folder, torch.bfloat16 if uses_bfloat16(config) else torch.float32)
    size = json.loads((student / "config.json").read_bytes())["vocab_size"]
    is_foreign = own.get_vocab() != other.get_vocab()
    if is_foreign and config.on_policy_share:
        raise ConfigError(f"on_policy_share: the teacher in {folder} has not the student's vocabulary to score it in")
    if not is_foreign and cast("Any", model.config).vocab_size != size:
        raise ConfigError(f"the teacher in {folder} has the student's tokens and not as many logits as its {size}")
    model.eval().requires_grad_(False)
    if torch.cuda.is_available():
        cast("nn.Module", model).cuda()
    return LocalTeacher(
        model,
        config.on_policy_share,
        sampling_of(config),
        is_foreign,
        config.on_policy_gamma,
        config.on_policy_early,
        sampler,
    )


def sampling_of(config: TrainConfig) -> Sampling:
    """How the student's own answers are sampled."""
    return Sampling(config.sample_tokens, config.sample_temperature, config.seed)


def merged(model: PeftModel, source: Path) -> nn.Module:
    """The adapter added to the weights in float32, not to those of four bits that it was trained over."""
    whole = get_peft_model(_load(source, torch.float32), model.peft_config["default"])
    set_peft_model_state_dict(whole, get_peft_model_state_dict(model))
    return cast("Any", whole).merge_and_unload()


def save_student(model: Any, config: TrainConfig, source: Path, folder: Path) -> None:
    """Write the trained weights in the source's dtype, and the source's config, tokenizer and template."""
    plain: Any = model
    if config.lora_rank is not None:
        model.save_pretrained(folder / "adapter")  # for a server that swaps adapters only
        plain = merged(model, source) if config.lora_4bit else plain.merge_and_unload()
    plain.to(dtype_of(source)).save_pretrained(folder)
    # The trainer changes the config (use_cache, dtype): a release differs from its source in weights only.
    copy_companions(source, folder)


def dtype_of(source: Path) -> torch.dtype:
    """The dtype of a model's folder, by its config."""
    written = json.loads((source / "config.json").read_bytes())
    return getattr(torch, written.get("dtype") or written.get("torch_dtype") or "float32")
