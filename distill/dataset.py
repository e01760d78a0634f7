"""From the ledger to a dataset: which answers are taken, what is held out, and the student's tokens of them.

Rows are split by a hash of the conversation's first user message, so that a request held out once stays held out in
every later dataset. The held-out part is a uniform sample of the traffic: where a release was live, escalated
requests are kept at the rate at which confident ones were explored.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from distill.collate import Example
from distill.settings import DistillSettings
from distill.targets import align, aligned_share, byte_vocabulary, from_openai, token_bytes
from ledger.requests import stream_trainable
from ledger.store import Store, now_ms

__all__ = ("DatasetError", "HeldOut", "Manifest", "Row", "build_dataset", "is_held_out", "read_held_out", "split")

ROUTER_REASONS: Final = ("hard", "low_confidence", "unsupported")
REFUSALS: Final = ("i'm sorry, but i can", "i am sorry, but i can", "i can't help with", "i cannot help with")
PARQUET_BATCH: Final = 1_000


class DatasetError(Exception):
    """There is too little to train on."""


class Row(msgspec.Struct):
    """One teacher answer that may be trained on."""

    id: str
    key_id: str
    reason: str
    propensity: float
    messages: list[dict[str, Any]]
    parameters: dict[str, Any]
    answer: str
    logprobs: list[Any] | None = None


class HeldOut(msgspec.Struct):
    """A request that is never trained on: the candidate and the champion are asked it, the router learns from it."""

    id: str
    messages: list[dict[str, Any]]
    parameters: dict[str, Any]
    answer: str


class Manifest(msgspec.Struct):
    """What a dataset is: counts, why rows were dropped, and the hash of its files."""

    created_at: int
    train: int
    held_out: int
    dropped: dict[str, int]
    aligned_share: float
    """Share of the training answers' tokens with a soft target."""
    keys: dict[str, int]
    content_hash: str


@dataclass
class _Selection:
    """Rows by destination, newest answer first for a repeated request."""

    settings: DistillSettings
    explore_rate: float
    dropped: Counter[str] = field(default_factory=Counter[str])
    train: dict[str, Row] = field(default_factory=dict[str, Row])
    held_out: dict[str, Row] = field(default_factory=dict[str, Row])

    def take(self, row: Row) -> None:
        """Put a row where it belongs, or drop it with a reason."""
        if not row.answer.strip():
            self.dropped["empty_answer"] += 1
            return
        if row.answer.lower().replace("\u2019", "'").startswith(REFUSALS):
            self.dropped["refusal"] += 1
            return
        identity = _identity(row.messages)
        if is_held_out(row.messages, self.settings.holdout_share):
            if self._thinned_out(row, identity):
                self.dropped["thinned_held_out"] += 1
                return
            destination = self.held_out
        else:
            destination = self.train
        if identity in destination:
            self.dropped["duplicate"] += 1
        destination[identity] = row

    def _thinned_out(self, row: Row, identity: str) -> bool:
        if row.reason == "pinned":
            return True
        return row.reason in ROUTER_REASONS and _unit(f"thin:{identity}") >= self.explore_rate


def is_held_out(messages: list[dict[str, Any]], share: float) -> bool:
    """Whether a conversation belongs to the held-out share: the same for the same first user message, always."""
    first = next((m.get("content") for m in messages if m.get("role") == "user"), "")
    return _unit(f"split:{_normalised(first)}") < share


def split(rows: Iterable[Row], settings: DistillSettings, explore_rate: float) -> _Selection:
    """Choose among the ledger's rows."""
    selection = _Selection(settings, explore_rate)
    for row in rows:
        selection.take(row)
    _cap_keys(selection)
    return selection


def build_dataset(
    store: Store, settings: DistillSettings, explore_rate: float, tokenizer: Any, folder: Path
) -> Manifest:
    """Write ``train.parquet``, ``held_out.jsonl`` and ``manifest.json`` (last) into the folder.

    Raises `DatasetError` when fewer than ``settings.min_examples`` rows are left to train on.
    """
    selection = split(_ledger_rows(store), settings, explore_rate)
    rows = list(selection.train.values())[-settings.max_examples :]
    if len(rows) < settings.min_examples:
        raise DatasetError(
            f"{len(rows)} teacher answers can be trained on, {settings.min_examples} are needed "
            f"(distill.min_examples); dropped: {dict(selection.dropped) or 'none'}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    share = _write_train(folder / "train.parquet", rows, tokenizer)
    held = [HeldOut(r.id, r.messages, r.parameters, r.answer) for r in selection.held_out.values()]
    (folder / "held_out.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in held))
    manifest = Manifest(
        created_at=now_ms(),
        train=len(rows),
        held_out=len(held),
        dropped=dict(selection.dropped),
        aligned_share=share,
        keys=dict(Counter(row.key_id for row in rows)),
        content_hash=_hash_files(folder / "train.parquet", folder / "held_out.jsonl"),
    )
    (folder / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def read_held_out(folder: Path) -> list[HeldOut]:
    """The held-out requests of a dataset."""
    decoder = msgspec.json.Decoder(HeldOut)
    return [decoder.decode(line) for line in (folder / "held_out.jsonl").read_bytes().splitlines()]


def _ledger_rows(store: Store) -> Iterator[Row]:
    for values, content in stream_trainable(store):
        yield Row(
            values["id"],
            values["key_id"] or "",
            values["reason"],
            values["propensity"],
            content.messages,
            content.parameters,
            content.answer,
            content.teacher_logprobs,
        )


def _cap_keys(selection: _Selection) -> None:
    limit = selection.settings.max_share_per_key
    if limit >= 1:
        return
    cap = max(1, int(limit * len(selection.train)))
    seen: Counter[str] = Counter()
    for identity, row in reversed(list(selection.train.items())):
        seen[row.key_id] += 1
        if seen[row.key_id] > cap:
            del selection.train[identity]
            selection.dropped["key_cap"] += 1


def _write_train(path: Path, rows: list[Row], tokenizer: Any) -> float:
    """Tokenize and align the rows into Parquet; returns the aligned share."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = token_bytes(tokenizer)
    vocabulary = byte_vocabulary(table)
    ints, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    schema = pa.schema(
        [
            ("prompt_ids", ints),
            ("answer_ids", ints),
            ("soft_ids", pa.list_(ints)),
            ("soft_logprobs", pa.list_(floats)),
            ("weight", pa.float32()),
        ]
    )
    aligned: list[tuple[float, int]] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(rows), PARQUET_BATCH):
            batch: list[dict[str, Any]] = []
            for row in rows[start : start + PARQUET_BATCH]:
                example, share = _example(row, tokenizer, table, vocabulary)
                aligned.append((share, len(example.answer_ids)))
                batch.append(msgspec.to_builtins(example))
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    tokens = sum(n for _, n in aligned)
    return sum(share * n for share, n in aligned) / tokens if tokens else 0.0


def _example(row: Row, tokenizer: Any, table: list[bytes], vocabulary: dict[bytes, int]) -> tuple[Example, float]:
    prompt = tokenizer.apply_chat_template(row.messages, add_generation_prompt=True, tokenize=False)
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    answer_ids = [*tokenizer(row.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    if not row.logprobs:
        return Example(prompt_ids, answer_ids), 0.0
    targets = align(answer_ids, table, from_openai(row.logprobs), vocabulary)
    soft_ids = [list(target.ids) for target in targets]
    soft_logprobs = [list(target.logprobs) for target in targets]
    return Example(prompt_ids, answer_ids, soft_ids, soft_logprobs), aligned_share(targets)


def _normalised(content: Any) -> str:
    text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    return " ".join(text.casefold().split())


def _identity(messages: list[dict[str, Any]]) -> str:
    parts = [f"{message.get('role')}\0{_normalised(message.get('content'))}" for message in messages]
    return hashlib.sha256("\1".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _unit(text: str) -> float:
    """A number in [0, 1) from a text, the same everywhere and always."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64


def _hash_files(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
