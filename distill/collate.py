"""Training rows: the example, its file, the order of batches, and the tensors of one batch."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ("BucketSampler", "Example", "ExampleSet", "Selected", "bins", "collate", "read_examples", "split_off")

_Number = TypeVar("_Number", int, float)

IGNORED = -100
"""The label of a position that is not trained on, as in `torch.nn.CrossEntropyLoss`."""


class Example(msgspec.Struct):
    """One row: a prompt, the teacher's answer, and its soft targets, in the student's token ids.

    ``soft_ids`` and ``soft_logprobs`` hold one list per answer token (an empty one where there is no target),
    or nothing at all for a teacher without log-probabilities. ``weight`` multiplies the row's loss.

    A local teacher with another tokenizer has the rest: the same prompt and answer in its ids, and the byte of the
    answer at which each token ends, the student's (``ends``) and its own.
    """

    prompt_ids: list[int]
    answer_ids: list[int]
    soft_ids: list[list[int]] = []
    soft_logprobs: list[list[float]] = []
    weight: float = 1.0
    teacher_prompt_ids: list[int] = []
    teacher_answer_ids: list[int] = []
    ends: list[int] = []
    teacher_ends: list[int] = []

    def __post_init__(self) -> None:
        """Refuse a row that cannot be trained on.

        Raises:
            ValueError: No prompt or answer, or soft targets that do not fit the answer or each other.
        """
        if not self.prompt_ids or not self.answer_ids:
            raise ValueError("an example needs a prompt and an answer")
        if self.soft_ids and len(self.soft_ids) != len(self.answer_ids):
            raise ValueError("soft_ids holds one list for each answer token, or nothing")
        if list(map(len, self.soft_ids)) != list(map(len, self.soft_logprobs)):
            raise ValueError("soft_ids and soft_logprobs differ in shape")
        if len(self.teacher_ends) != len(self.teacher_answer_ids):
            raise ValueError("teacher_ends holds a byte for each token of teacher_answer_ids")
        if self.teacher_answer_ids and (len(self.ends) != len(self.answer_ids) or not self.teacher_prompt_ids):
            raise ValueError("teacher_answer_ids need teacher_prompt_ids, and ends for each token of answer_ids")

    def __len__(self) -> int:
        """Count the tokens."""
        return len(self.prompt_ids) + len(self.answer_ids)


class ExampleSet(Sequence[Example]):
    """Examples held packed, each decoded when asked for.

    A soft target is some 68 bytes as Python objects and 12 packed, and there are up to 20 for each token.
    """

    def __init__(self, examples: Iterable[Example], max_length: int | None = None) -> None:
        """Take the examples of at most ``max_length`` tokens; ``too_long`` counts the others."""
        self.lengths: list[int] = []
        self.too_long = 0
        self._rows: list[bytes] = []
        for example in examples:
            if max_length is not None and len(example) > max_length:
                self.too_long += 1
                continue
            self._rows.append(msgspec.msgpack.encode(example))
            self.lengths.append(len(example))
        self._decoder = msgspec.msgpack.Decoder(Example)

    def __len__(self) -> int:
        """Count the examples."""
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        """Decode one example, or a list of them."""
        if isinstance(index, slice):
            return [self._decoder.decode(row) for row in self._rows[index]]
        return self._decoder.decode(self._rows[index])


def read_examples(path: Path) -> Iterator[Example]:
    """Read the rows of a ``.parquet`` or JSON-lines file with `Example`'s fields as columns.

    Raises:
        msgspec.ValidationError: A row is not an example.
    """
    if path.suffix != ".parquet":
        decoder = msgspec.json.Decoder(Example)
        with path.open("rb") as lines:
            yield from (decoder.decode(line) for line in lines if line.strip())
        return
    # The gateway's installation has no pyarrow, and this room must be importable there.
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=256, columns=list(Example.__struct_fields__)):
            yield from msgspec.convert(batch.to_pylist(), list[Example])


def collate(
    examples: Sequence[Example], pad_id: int, multiple_of: int = 8, packed: bool = False
) -> "dict[str, Tensor]":
    """Make the tensors of a batch of B rows, padded on the right to T, a multiple of ``multiple_of``.

    ``input_ids``, ``attention_mask`` and ``labels`` are (B, T) long; labels stand at their token's own place,
    -100 elsewhere. The rest has one entry for each of the N labels, row after row: ``soft_ids`` (N, K)
    long, padded with -1, ``soft_logprobs`` (N, K) float32 with K the largest number of soft targets in the
    batch (0 for none), and ``weights`` (N,).

    Where rows have the ids of a teacher with another tokenizer, those are there too: see `_foreign`.

    With ``packed``, the examples share rows by `bins`, and there are ``position_ids`` (B, T) too, which begin again
    at 0 with each example: a model that is given them in the place of the mask, and no cache, keeps them apart.
    """
    import torch

    rows = [[examples[place] for place in places] for places in bins(list(map(len, examples)), packed)]
    examples = [example for row in rows for example in row]
    width = math.ceil(max(sum(map(len, row)) for row in rows) / multiple_of) * multiple_of
    ids = [[token for one in row for token in one.prompt_ids + one.answer_ids] for row in rows]
    labels = [[label for one in row for label in [IGNORED] * len(one.prompt_ids) + one.answer_ids] for row in rows]
    soft_ids = [ids for example in examples for ids in example.soft_ids or [[]] * len(example.answer_ids)]
    soft_logs = [logs for example in examples for logs in example.soft_logprobs or [[]] * len(example.answer_ids)]
    most = max(map(len, soft_ids))
    batch = {
        "input_ids": torch.tensor(_padded(ids, width, pad_id)),
        "attention_mask": torch.tensor(_padded([[1] * len(row) for row in ids], width, 0)),
        "labels": torch.tensor(_padded(labels, width, IGNORED)),
        "soft_ids": torch.tensor(_padded(soft_ids, most, -1), dtype=torch.long),
        "soft_logprobs": torch.tensor(_padded(soft_logs, most, 0.0), dtype=torch.float32),
        "weights": torch.tensor([example.weight for example in examples for _ in example.answer_ids]),
    }
    batch |= _foreign(examples)
    if packed:
        places = [[place for one in row for place in range(len(one))] for row in rows]
        # what is padded is an example of its own
        batch["position_ids"] = torch.tensor([row + list(range(width - len(row))) for row in places])
    return batch


def _foreign(examples: Sequence[Example]) -> "dict[str, Tensor]":
    """The F rows of the batch that a teacher with another tokenizer reads, in its ids; nothing where there are none.

    ``teacher_ids``, ``teacher_mask`` and ``teacher_labels`` (F, U) are as those of the batch. Of its M labels
    ``teacher_rows`` (M,) is the number of the row and ``teacher_ends`` (M,) the byte at which each ends; ``rows`` and
    ``ends`` (N,) are the same of the batch's own labels, -1 in rows that it does not read.
    """
    import torch

    read = [example for example in examples if example.teacher_answer_ids]
    if not read:
        return {}
    number = iter(range(len(read)))
    own = [next(number) if example.teacher_answer_ids else -1 for example in examples]
    ids = [example.teacher_prompt_ids + example.teacher_answer_ids for example in read]
    labels = [[IGNORED] * len(example.teacher_prompt_ids) + example.teacher_answer_ids for example in read]
    width = max(map(len, ids))
    ends = [example.ends or [-1] * len(example.answer_ids) for example in examples]
    return {
        "teacher_ids": torch.tensor(_padded(ids, width, 0)),
        "teacher_mask": torch.tensor(_padded([[1] * len(row) for row in ids], width, 0)),
        "teacher_labels": torch.tensor(_padded(labels, width, IGNORED)),
        "teacher_rows": torch.tensor([row for row, example in enumerate(read) for _ in example.teacher_answer_ids]),
        "teacher_ends": torch.tensor([end for example in read for end in example.teacher_ends]),
        "rows": torch.tensor([row for row, one in zip(own, examples, strict=True) for _ in one.answer_ids]),
        "ends": torch.tensor([end for row in ends for end in row]),
    }


def bins(lengths: Sequence[int], packed: bool) -> list[list[int]]:
    """Which examples share a row: none, or, packed, as many as fit the longest one's length (first fit, falling)."""
    if not packed:
        return [[place] for place in range(len(lengths))]
    room = max(lengths)
    rows: list[list[int]] = []
    left: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        row = next((row for row, free in enumerate(left) if free >= lengths[place]), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(room)
        rows[row].append(place)
        left[row] -= lengths[place]
    return rows


def _padded(rows: Sequence[list[_Number]], width: int, fill: _Number) -> list[list[_Number]]:
    return [row + [fill] * (width - len(row)) for row in rows]


class Selected(Sequence[Any]):
    """Some of the rows of an `ExampleSet` or of its like."""

    def __init__(self, rows: Any, places: Sequence[int]) -> None:
        self.lengths: list[int] = [rows.lengths[place] for place in places]
        self._rows = rows
        self._places = places

    def __len__(self) -> int:
        """Count them."""
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        """One of them."""
        return self._rows[self._places[index]]


def split_off(rows: Any, share: float, seed: int) -> tuple[Selected, Selected]:
    """Divide rows at random: those that are left, and a ``share`` of them, at least one, for validation."""
    order = list(range(len(rows)))
    random.Random(f"{seed}/validation").shuffle(order)  # noqa: S311 - an order, not a secret
    taken = max(1, round(share * len(rows)))
    return Selected(rows, sorted(order[taken:])), Selected(rows, sorted(order[:taken]))


class BucketSampler:
    """Batches of row indices, of similar length within a batch, in an order that only seed and epoch decide.

    Rows are shuffled, sorted by length within windows of some batches, cut, and the batches shuffled: padding
    is small, and batches differ from epoch to epoch. Serves as the ``batch_sampler`` of a `DataLoader`;
    ``transformers.Trainer`` calls `set_epoch`, and when it resumes, it skips the batches already done.
    """

    drop_last = False

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        window: int = 32,
        part: tuple[int, int, int] = (0, 1, 1),
    ) -> None:
        """Order rows of these ``lengths``; so many batches as ``window`` says are sorted by length together.

        ``part`` is a process, how many share each batch, and in how many pieces a process takes its share, one after
        the other: whatever they are, the batches are made of the same rows. What is left of an epoch and has not a
        row for each process joins the batch before it; else it is the last batch where there are pieces, for it may
        have fewer.
        """
        self.batch_size = batch_size
        self.window = window
        self._process, self._processes, self._pieces = part
        self._lengths = lengths
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Count the pieces of an epoch's batches."""
        whole, left = divmod(len(self._lengths), self.batch_size)
        return whole * self._pieces + (self._pieces_of(left) if self._is_batch(left) else 0)

    def _is_batch(self, left: int) -> bool:
        return left >= self._processes or 0 < left == len(self._lengths)

    def _pieces_of(self, rows: int) -> int:
        return min(self._pieces, max(1, rows // self._processes))

    def __iter__(self) -> Iterator[list[int]]:
        """Give the pieces of the current epoch's batches."""
        chance = random.Random(f"{self._seed}/{self._epoch}")  # noqa: S311 - an order, not a secret
        order = list(range(len(self._lengths)))
        chance.shuffle(order)
        span = self.window * self.batch_size
        for start in range(0, len(order), span):
            order[start : start + span] = sorted(order[start : start + span], key=self._lengths.__getitem__)
        batches = [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        left = len(order) % self.batch_size
        if left and not self._is_batch(left):
            batches[-2:] = [batches[-2] + batches[-1]]
        last = [batches.pop()] if self._pieces > 1 and self._is_batch(left) else []
        chance.shuffle(batches)
        for batch in batches + last:
            pieces = self._pieces_of(len(batch))
            for piece in range(pieces):
                yield batch[self._process + piece * self._processes :: self._processes * pieces]
