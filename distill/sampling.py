"""What the student itself answers to a batch's prompts: the rows of a step of on-policy distillation."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from distill.collate import IGNORED, Example, collate

__all__ = ("Sampling", "end_ids", "prompts_of", "sampled_batch")


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled: at most ``tokens`` of them, from the whole softmax at ``temperature``.

    ``seed`` and a step's number decide what is drawn, so that a run that is resumed draws the same.
    """

    tokens: int
    temperature: float
    seed: int


def prompts_of(batch: dict[str, Tensor]) -> list[list[int]]:
    """The token ids before each row's first label."""
    starts = (batch["labels"] != IGNORED).int().argmax(-1).tolist()
    return [row[:start] for row, start in zip(batch["input_ids"].tolist(), starts, strict=True)]


def end_ids(model: PreTrainedModel) -> list[int]:
    """The tokens that end an answer, by the model's own configuration."""
    named = [model.config.eos_token_id, cast("Any", model.generation_config).eos_token_id]
    return sorted({each for ids in named if ids is not None for each in (ids if isinstance(ids, list) else [ids])})


def sampled_batch(
    model: PreTrainedModel, batch: dict[str, Tensor], sampling: Sampling, step: int
) -> dict[str, Tensor]:
    """A batch of `collate` with the same prompts, and answers drawn from the model; it has ``sampled`` besides.

    An answer ends with the first end token, which is a label too, or after ``sampling.tokens`` without one.
    """
    prompts = prompts_of(batch)
    width = max(map(len, prompts))
    pad = model.config.pad_token_id or 0
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    training = model.training
    model.eval()
    # the optimiser's and the dropout's random numbers stay as they are without sampling
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(hash((sampling.seed, step)))
        drawn = cast("Any", model).generate(ids, attention_mask=mask, generation_config=_generation(model, sampling))
    model.train(training)
    answers = [_ended(row, end_ids(model)) for row in drawn[:, width:].tolist()]
    rows = zip(prompts, answers, _row_weights(batch), strict=True)
    made = collate([Example(prompt, answer, weight=weight) for prompt, answer, weight in rows], pad, 1)
    return {name: tensor.to(model.device) for name, tensor in made.items()} | {"sampled": torch.tensor(True)}


def _row_weights(batch: dict[str, Tensor]) -> list[float]:
    counts = (batch["labels"] != IGNORED).sum(-1)
    return batch["weights"][counts.cumsum(0) - counts].tolist()


def _generation(model: PreTrainedModel, sampling: Sampling) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=sampling.tokens,
        eos_token_id=end_ids(model),
        pad_token_id=model.config.pad_token_id or 0,
        use_cache=True,
    )


def _ended(answer: list[int], ends: list[int]) -> list[int]:
    last = next((place for place, token in enumerate(answer) if token in ends), len(answer) - 1)
    return answer[: last + 1]
