"""The second pass: what was chosen is fetched again, redacted, tokenised and written, a few rows at a time."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec

from distill.capabilities import TeacherCapabilities, loss_for
from distill.collate import Example
from distill.data.redaction import kinds_of, redact_row
from distill.data.rows import HeldOut, Row, render
from distill.data.settings import DataSettings
from distill.local_teacher import Apart, LocalTokens
from distill.target_report import TargetReport
from distill.targets import explain, from_openai
from distill.vocabulary import byte_vocabulary, special_tokens, token_bytes

__all__ = ("Written", "content_hash", "write_held_out", "write_train", "write_whole")

PARQUET_BATCH: Final = 500
OWNER_ONLY: Final = 0o600


@dataclass
class Written:
    """Writes rows, and counts what it wrote. ``pii_map`` is where placeholders are explained, if anywhere."""

    settings: DataSettings
    tokenizer: Any
    local: LocalTokens | None = None
    pii_map: Path | None = None
    on_row: Callable[[], None] = lambda: None
    redacted: Counter[str] = field(default_factory=Counter[str])
    keys: Counter[str] = field(default_factory=Counter[str])
    corrected: int = 0
    capabilities: TeacherCapabilities = field(default_factory=TeacherCapabilities)
    """What the teacher is known to give."""
    targets: TargetReport = field(default_factory=TargetReport)

    def __post_init__(self) -> None:
        """Make the file of the placeholders, readable by its owner only, before anything is in it."""
        if self.pii_map is not None:
            os.close(os.open(self.pii_map, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY))
            self.pii_map.chmod(OWNER_ONLY)

    def ready(self, row: Row) -> Row:
        """The row as it is written, counted."""
        self.corrected += row.corrected
        self.on_row()
        if not self.settings.redact_pii:
            return row
        hidden, mapping = redact_row(row, self.settings.phone_region)
        self.redacted.update(kinds_of(mapping))
        if mapping and self.pii_map is not None:
            with self.pii_map.open("ab") as file:
                file.write(msgspec.json.encode({"request_id": row.id, "placeholders": mapping}) + b"\n")
        return hidden

    def example(self, row: Row, weight: float) -> Example:
        """The student's tokens of a row, and its soft targets."""
        self.keys[row.key_id] += 1
        prompt_ids = self.tokenizer(render(row.messages, self.tokenizer), add_special_tokens=False).input_ids
        answer_ids = self.tokenizer(row.answer, add_special_tokens=False).input_ids
        answer_ids = [*answer_ids, self.tokenizer.eos_token_id]
        found = explain(answer_ids, self._bytes, from_openai(row.logprobs or ()), self._vocabulary)
        kind = loss_for(row.logprobs, found.aligned_share, self.capabilities)
        apart = self._apart(row, answer_ids) if kind == "foreign" else None
        if kind == "foreign" and apart is None:
            kind = "byte_aligned" if row.logprobs else "hard"
        self.targets.add(found, kind)
        if apart is not None:
            theirs = (apart.prompt_ids, apart.answer_ids, apart.own_ends, apart.ends)
            return Example(prompt_ids, answer_ids, [], [], weight, *theirs)
        if not row.logprobs:
            return Example(prompt_ids, answer_ids, weight=weight)
        soft_ids = [list(target.ids) for target in found.targets]
        soft_logprobs = [list(target.logprobs) for target in found.targets]
        return Example(prompt_ids, answer_ids, soft_ids, soft_logprobs, weight)

    def _apart(self, row: Row, answer_ids: list[int]) -> Apart | None:
        own = [self._bytes[token] for token in answer_ids[:-1]]
        return self.local.apart(row.messages, row.answer, own) if self.local else None

    @cached_property
    def _bytes(self) -> list[bytes]:
        return token_bytes(self.tokenizer)

    @cached_property
    def _vocabulary(self) -> dict[bytes, int]:
        return byte_vocabulary(self._bytes) | special_tokens(self.tokenizer)


def write_train(path: Path, rows: Iterable[tuple[Row, float]], written: Written) -> int:
    """Write rows, with their weights, as Parquet with the columns of `Example`. Returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ints, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    types = (ints, ints, pa.list_(ints), pa.list_(floats), pa.float32(), ints, ints, ints, ints)
    schema = pa.schema(list(zip(Example.__struct_fields__, types, strict=True)))
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(written.example(written.ready(row), weight) for row, weight in rows):
            writer.write_table(pa.Table.from_pylist(msgspec.to_builtins(batch), schema=schema))
            count += len(batch)
    return count


def write_held_out(path: Path, rows: Iterable[Row], written: Written) -> int:
    """Write rows as JSON lines of `HeldOut`. Returns how many."""
    count = 0
    with path.open("wb") as file:
        for row in map(written.ready, rows):
            held = HeldOut(row.id, row.messages, row.parameters, row.answer, row.tags, row.model, not row.corrected)
            file.write(msgspec.json.encode(held) + b"\n")
            count += 1
    return count


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there in full or not at all, whenever this process is killed."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def content_hash(*paths: Path) -> str:
    """SHA-256 of the files' hashes, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    batch: list[Example] = []
    for example in examples:
        batch.append(example)
        if len(batch) == PARQUET_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
