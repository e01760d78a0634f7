"""What the student itself answers to a batch's prompts: the rows of a step of on-policy distillation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from distill import ranks
from distill.collate import IGNORED, Example, collate

__all__ = ("Answer", "LocalSampler", "Prompts", "Sampler", "Sampling", "end_ids", "sampled_batches", "until_end")

Prompts: TypeAlias = list[list[int]]
"""The token ids of each row's prompt, of one batch."""


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled: at most ``tokens`` of them, from the whole softmax at ``temperature``.

    ``seed`` and a step's number decide what is drawn, so that a run that is resumed draws the same.
    """

    tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Answer:
    """A sampled answer's token ids, and what each was drawn with: its log-probability at the sampling temperature.

    None of those where the model that is trained drew them itself.
    """

    ids: list[int]
    logprobs: list[float] | None = None


class Sampler(Protocol):
    """Draws answers from the student."""

    def answers(self, model: PreTrainedModel, prompts: Sequence[Prompts], step: int) -> list[list[Answer]]:
        """An answer to each prompt of each batch of a step, from the model as it is, or as it was some steps ago."""
        ...


def _prompts_of(batch: dict[str, Tensor]) -> list[list[int]]:
    """The token ids before each row's first label."""
    starts = (batch["labels"] != IGNORED).int().argmax(-1).tolist()
    return [row[:start] for row, start in zip(batch["input_ids"].tolist(), starts, strict=True)]


def end_ids(model: PreTrainedModel) -> list[int]:
    """The tokens that end an answer, by the model's own configuration."""
    named = [model.config.eos_token_id, cast("Any", model.generation_config).eos_token_id]
    return sorted({each for ids in named if ids is not None for each in (ids if isinstance(ids, list) else [ids])})


def until_end(answer: list[int], ends: list[int]) -> list[int]:
    """An answer up to its first end token, which is a label too, or whole where it has none."""
    last = next((place for place, token in enumerate(answer) if token in ends), len(answer) - 1)
    return answer[: last + 1]


def sampled_batches(
    model: PreTrainedModel, batches: Sequence[dict[str, Tensor]], sampler: Sampler, step: int
) -> list[dict[str, Tensor]]:
    """Batches of `collate` with the same prompts, and answers that the sampler draws; each has ``sampled`` besides.

    Where the sampler says what its tokens were drawn with, that is ``drawn_logprobs``, one for each label.
    """
    prompts = [_prompts_of(batch) for batch in batches]
    drawn = sampler.answers(model, prompts, step)
    return [_answered(model, *each) for each in zip(batches, prompts, drawn, strict=True)]


def _answered(
    model: PreTrainedModel, batch: dict[str, Tensor], prompts: Prompts, answers: list[Answer]
) -> dict[str, Tensor]:
    rows = zip(prompts, answers, _row_weights(batch), strict=True)
    examples = [Example(prompt, answer.ids, weight=weight) for prompt, answer, weight in rows]
    made = collate(examples, model.config.pad_token_id or 0, 1)
    if all(answer.logprobs is not None for answer in answers):
        made["drawn_logprobs"] = torch.tensor([each for answer in answers for each in answer.logprobs or ()])
    return {name: tensor.to(model.device) for name, tensor in made.items()} | {"sampled": torch.tensor(True)}


def _row_weights(batch: dict[str, Tensor]) -> list[float]:
    counts = (batch["labels"] != IGNORED).sum(-1)
    return batch["weights"][counts.cumsum(0) - counts].tolist()


@dataclass(frozen=True)
class LocalSampler:
    """Transformers' ``generate`` in this process, batch by batch, always from the weights of the step."""

    sampling: Sampling

    def answers(self, model: PreTrainedModel, prompts: Sequence[Prompts], step: int) -> list[list[Answer]]:
        """See `Sampler`."""
        first = step * len(prompts)
        return [
            self._batch(model, batch, (first + place) * ranks.world() + ranks.rank())
            for place, batch in enumerate(prompts)
        ]

    def _batch(self, model: PreTrainedModel, prompts: Prompts, number: int) -> list[Answer]:
        width = max(map(len, prompts))
        pad = model.config.pad_token_id or 0
        blanks = [width - len(prompt) for prompt in prompts]
        pairs = list(zip(blanks, prompts, strict=True))
        ids = torch.tensor([[pad] * blank + prompt for blank, prompt in pairs], device=model.device)
        mask = torch.tensor([[0] * blank + [1] * len(prompt) for blank, prompt in pairs], device=model.device)
        training = model.training
        model.eval()
        # the optimiser's and the dropout's random numbers stay as they are without sampling
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(hash((self.sampling.seed, number)))
            drawn = cast("Any", model).generate(
                ids, attention_mask=mask, generation_config=_generation(model, self.sampling)
            )
        model.train(training)
        return [Answer(until_end(row, end_ids(model))) for row in drawn[:, width:].tolist()]


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
