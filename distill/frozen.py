"""Training the upper layers only: what the frozen lower ones say of each row is computed once, not in every epoch.

A causal decoder without dropout gives a row the same hidden states each time, so the lower layers' output takes the
place of the embeddings, and an epoch costs what its trained layers cost.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.collate import Example, ExampleSet, bins, collate

__all__ = (
    "HiddenExamples",
    "collate_hidden",
    "fits",
    "hidden_examples",
    "restore_layers",
    "upper_layers_only",
    "without_lower_layers",
)

MAX_BYTES = 2 * 1024**3
BATCH_TOKENS = 4096


class HiddenExamples(Sequence[tuple[Example, Tensor]]):
    """Examples with the hidden states (tokens, width) that enter the trained layers."""

    def __init__(self, examples: ExampleSet, hidden: Sequence[Tensor]) -> None:
        self.lengths = examples.lengths
        self.too_long = examples.too_long
        self._examples = examples
        self._hidden = hidden

    def __len__(self) -> int:
        """Count the examples."""
        return len(self._examples)

    def __getitem__(self, index: Any) -> Any:
        """One example with its hidden states."""
        return self._examples[index], self._hidden[index]


def fits(model: PreTrainedModel, examples: ExampleSet) -> bool:
    """Whether the hidden states of all rows stay within `MAX_BYTES`."""
    return sum(examples.lengths) * cast("Any", model.config).hidden_size * 4 <= MAX_BYTES


def hidden_examples(
    model: PreTrainedModel, trained: int, examples: ExampleSet, on_progress: Callable[[int], None]
) -> HiddenExamples:
    """Run the layers below the uppermost ``trained`` ones over every row, in float32 and without gradients.

    ``on_progress`` hears how many rows are done.
    """
    decoder = cast("Any", model.get_decoder())
    layers, norm = decoder.layers, decoder.norm
    hidden: list[Tensor | None] = [None] * len(examples)
    decoder.layers, decoder.norm = layers[:-trained], nn.Identity()
    done = 0
    try:
        with torch.no_grad():
            for rows in _batches(examples.lengths):
                batch = collate([examples[row] for row in rows], 0, 1)
                states = decoder(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
                ).last_hidden_state
                for row, state in zip(rows, states, strict=True):
                    hidden[row] = state[: examples.lengths[row]].clone()
                done += len(rows)
                on_progress(done)
    finally:
        decoder.layers, decoder.norm = layers, norm
    return HiddenExamples(examples, cast("list[Tensor]", hidden))


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    size = max(1, BATCH_TOKENS // max(lengths))
    for number in range(math.ceil(len(order) / size)):
        yield order[number * size : (number + 1) * size]


def collate_hidden(
    rows: Sequence[tuple[Example, Tensor]], pad_id: int, multiple_of: int, packed: bool = False
) -> dict[str, Tensor]:
    """A batch of `collate` with ``inputs_embeds`` (B, T, width), zero where padded."""
    batch = collate([example for example, _ in rows], pad_id, multiple_of, packed)
    width = batch["input_ids"].shape[1]
    shared = bins([len(example) for example, _ in rows], packed)
    joined = [torch.cat([rows[place][1] for place in places]) for places in shared]
    padded = [nn.functional.pad(states, (0, 0, 0, width - states.shape[0])) for states in joined]
    return batch | {"inputs_embeds": torch.stack(padded)}


def without_lower_layers(
    model: PreTrainedModel, trained: int | None, examples: ExampleSet, on_progress: Callable[[int], None]
) -> tuple[ExampleSet | HiddenExamples, nn.ModuleList | None]:
    """Take layers that are not trained out of the training loop, where their output can be kept.

    Returns the rows to train on, and the layers for `restore_layers`, or None where the model stays whole.
    """
    if trained is None or trained >= cast("Any", model.config).num_hidden_layers or not fits(model, examples):
        return examples, None
    return hidden_examples(model, trained, examples, on_progress), upper_layers_only(model, trained)


def upper_layers_only(model: PreTrainedModel, trained: int) -> nn.ModuleList:
    """Leave the model its uppermost ``trained`` layers; returns the lower ones for `restore_layers`."""
    decoder = cast("Any", model.get_decoder())
    lower = decoder.layers[:-trained]
    decoder.layers = decoder.layers[-trained:]
    return lower


def restore_layers(model: PreTrainedModel, lower: nn.ModuleList) -> None:
    """Put the lower layers back below the trained ones."""
    decoder = cast("Any", model.get_decoder())
    decoder.layers = nn.ModuleList([*lower, *decoder.layers])
