"""Weights, gradients and optimiser divided among the processes (PyTorch's FSDP2), instead of whole in each."""

from typing import Any

from distill import ranks
from distill.train_config import ConfigError, TrainConfig

__all__ = ("arguments", "gathered", "has_devices")


def has_devices() -> bool:
    """Whether there is what weights are divided over: accelerate leaves a CPU's whole without a word."""
    import torch

    return torch.cuda.is_available()


def arguments(config: TrainConfig) -> dict[str, Any]:
    """Of `TrainingArguments`: a unit for each decoder layer, checkpoints of whole weights.

    Raises:
        ConfigError: There is no GPU.
    """
    if config.sharding == "none":
        return {"gradient_checkpointing": config.gradient_checkpointing}
    if not has_devices():
        raise ConfigError('sharding = "fsdp" needs CUDA GPUs: without them, unset distill.sharding')
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "reshard_after_forward": True,
            "state_dict_type": "FULL_STATE_DICT",
            # in the place of transformers' own, which gathers a layer's weights once more for it
            "activation_checkpointing": config.gradient_checkpointing,
        },
    }


def gathered(model: Any, plain: Any) -> Any:
    """``plain``, which all processes have alike, with the weights that ``model`` has in parts; all must call it."""
    # one by one: a device has not room for all of them
    plain.load_state_dict({name: ranks.whole(value).cpu() for name, value in model.state_dict().items()})
    return plain
