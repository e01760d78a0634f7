"""From the ledger to a dataset: which answers are taken, what is held out, and the student's tokens of them.

Rows are split by a hash of the conversation's first user message, so that a request held out once stays held out in
every later dataset. The held-out part is a uniform sample of the traffic that the router decides on: where a release
was live, confident requests are there only where they were explored, each with a probability p of its own (its
propensity). With p_min the least one in the ledger, an explored request is kept with p_min / p and an escalated one
with p_min, so that each had the chance p_min.
"""

import bisect
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from distill.collate import Example
from distill.settings import DistillSettings
from distill.targets import align, aligned_share, byte_vocabulary, from_openai, token_bytes
from ledger.feedback import NEGATIVE
from ledger.observed import least_propensity
from ledger.requests import stream_trainable
from ledger.store import Store, now_ms
from router.features import RequestView

__all__ = (
    "DatasetError",
    "HeldOut",
    "Manifest",
    "Row",
    "build_dataset",
    "is_held_out",
    "read_held_out",
    "render",
    "split",
    "write_whole",
)

THINNED: Final = ("hard", "low_confidence", "student_down", "explore")
"""Logged whenever they happen; of the confident requests only the explored ones are, by their propensity."""
NOT_SAMPLED: Final = ("pinned", "unsupported")
"""The router decides nothing about these."""
REFUSALS: Final = ("i'm sorry, but i can", "i am sorry, but i can", "i can't help with", "i cannot help with")
PARQUET_BATCH: Final = 1_000

Messages: TypeAlias = list[dict[str, Any]]


class DatasetError(Exception):
    """There is too little to train on."""


class Row(msgspec.Struct):
    """One answer that may be trained on: the teacher's, or a caller's correction."""

    id: str
    key_id: str
    reason: str
    propensity: float
    messages: Messages
    parameters: dict[str, Any]
    answer: str
    logprobs: list[Any] | None = None
    score: float | None = None
    """Of the newest feedback."""
    corrected: bool = False
    answered: bool = True
    """False where only its correction brings it here: the student answered, or the teacher did not in full."""
    tags: list[str] = []
    model: str = ""


class HeldOut(msgspec.Struct):
    """A request that is never trained on: the candidate and the champion are asked it, the router learns from it."""

    id: str
    messages: Messages
    parameters: dict[str, Any]
    answer: str
    tags: list[str] = []
    model: str = ""
    """The name that it was sent to."""
    teacher_right: bool = True
    """False where a caller corrected the teacher's answer; ``answer`` is the correction then."""


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
    corrected: int = 0
    """Rows, in both files, whose answer is a correction by feedback."""


@dataclass
class _Selection:
    """Rows by destination, newest answer first for a repeated request."""

    settings: DistillSettings
    least_propensity: float
    renders: Callable[[Messages], bool]
    dropped: Counter[str] = field(default_factory=Counter[str])
    train: dict[str, Row] = field(default_factory=dict[str, Row])
    held_out: dict[str, Row] = field(default_factory=dict[str, Row])

    def take(self, row: Row) -> None:
        """Put a row where it belongs, or drop it with a reason."""
        held_out = is_held_out(row.messages, self.settings.holdout_share)
        why = self._refused(row) or (self._not_sampled(row) if held_out else None)
        if why is not None:
            self.dropped[why] += 1
            return
        destination = self.held_out if held_out else self.train
        identity = _identity(row.messages)
        known = destination.pop(identity, None)
        if known is not None:
            self.dropped["duplicate"] += 1
        # what a person put right stays so, whatever the teacher answers later
        destination[identity] = known if known is not None and known.corrected > row.corrected else row

    def _refused(self, row: Row) -> str | None:
        answer = row.answer.strip().lower().replace("\u2019", "'")
        if not answer:
            return "empty_answer"
        if not row.corrected and row.score is not None and row.score < NEGATIVE:
            return "negative_feedback"
        if not row.corrected and answer.startswith(REFUSALS):
            return "refusal"
        view = RequestView.from_body(row.parameters | {"messages": row.messages})
        if view.has_tools or view.has_images or view.unserved or view.n != 1:
            return "not_plain_text"
        return None if self.renders(row.messages) else "template"

    def _not_sampled(self, row: Row) -> str | None:
        if row.reason in NOT_SAMPLED or not row.answered:
            return "not_sampled"
        # by the row's own id: a request that comes back has a new chance each time, as with exploration
        thinned = row.reason in THINNED and _unit(f"thin:{row.id}") * row.propensity >= self.least_propensity
        return "thinned_held_out" if thinned else None


def is_held_out(messages: Messages, share: float) -> bool:
    """Whether a conversation belongs to the held-out share: the same for the same first user message, always."""
    first = next((m.get("content") for m in messages if m.get("role") == "user"), "")
    return _unit(f"split:{_normalised(first)}") < share


def render(messages: Messages, tokenizer: Any) -> str:
    """The prompt of a text conversation by the tokenizer's chat template; content parts are joined as vLLM does it.

    Raises ``jinja2.TemplateError`` or ``TypeError`` for messages that the template does not take.
    """
    view = RequestView.from_body({"messages": messages})
    plain = [{"role": role, "content": text} for role, text in view.messages]
    return tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)


def split(
    rows: Iterable[Row], settings: DistillSettings, least_propensity: float, renders: Callable[[Messages], bool]
) -> _Selection:
    """Choose among the ledger's rows, given oldest first."""
    selection = _Selection(settings, least_propensity, renders)
    for row in rows:
        selection.take(row)
    _cap_keys(selection)
    return selection


def build_dataset(
    store: Store, settings: DistillSettings, explore_rate: float, tokenizer: Any, folder: Path
) -> Manifest:
    """Write ``train.parquet``, ``held_out.jsonl`` and ``manifest.json`` (last) into the folder.

    ``explore_rate`` is the propensity to thin by where no explored request is in the ledger yet.

    Raises `DatasetError` when fewer than ``settings.min_examples`` rows are left to train on, or none to judge by.
    """
    least = least_propensity(store) or explore_rate
    selection = split(_ledger_rows(store), settings, least, lambda messages: _renders(messages, tokenizer))
    rows = list(selection.train.values())[-settings.max_examples :]
    dropped = f"dropped: {dict(selection.dropped) or 'none'}"
    if len(rows) < settings.min_examples:
        raise DatasetError(
            f"{len(rows)} teacher answers can be trained on, {settings.min_examples} are needed "
            f"(distill.min_examples); {dropped}"
        )
    if not selection.held_out:
        raise DatasetError(
            f"no teacher answer is held out to judge a student by (distill.holdout_share = "
            f"{settings.holdout_share}; requests pinned to the teacher do not count); {dropped}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    share = _write_train(folder / "train.parquet", rows, tokenizer)
    held = [_held_out(row) for row in selection.held_out.values()]
    (folder / "held_out.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in held))
    manifest = Manifest(
        created_at=now_ms(),
        train=len(rows),
        held_out=len(held),
        dropped=dict(selection.dropped),
        aligned_share=share,
        keys=dict(Counter(row.key_id for row in rows)),
        content_hash=_hash_files(folder / "train.parquet", folder / "held_out.jsonl"),
        corrected=sum(row.corrected for row in (*rows, *selection.held_out.values())),
    )
    write_whole(folder / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there in full or not at all, whenever this process is killed."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def read_held_out(folder: Path) -> list[HeldOut]:
    """The held-out requests of a dataset."""
    decoder = msgspec.json.Decoder(HeldOut)
    return [decoder.decode(line) for line in (folder / "held_out.jsonl").read_bytes().splitlines()]


def _held_out(row: Row) -> HeldOut:
    return HeldOut(row.id, row.messages, row.parameters, row.answer, row.tags, row.model, not row.corrected)


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
            values["feedback_score"],
            values["corrected"],
            values["answered"],
            values["tags"],
            values["model"],
        )


def _cap_keys(selection: _Selection) -> None:
    """Keep each key's newest rows, as many as leave it ``max_share_per_key`` of the dataset."""
    cap = _largest_cap(Counter(row.key_id for row in selection.train.values()), selection.settings)
    seen: Counter[str] = Counter()
    for identity, row in reversed(list(selection.train.items())):
        seen[row.key_id] += 1
        if seen[row.key_id] > cap:
            del selection.train[identity]
            selection.dropped["key_cap"] += 1


def _largest_cap(rows: Counter[str], settings: DistillSettings) -> int:
    """The most rows a key may have and stay within its share of what all then have; 0 if there is no such cap."""
    share, most = settings.max_share_per_key, max(rows.values(), default=0)
    if share >= 1:
        return most

    def too_many(cap: int) -> bool:
        return cap > share * min(settings.max_examples, sum(min(n, cap) for n in rows.values()))

    # what all keys have grows ever slower with the cap, so that once a cap is too large, every larger one is
    return bisect.bisect_left(range(1, most + 1), True, key=too_many)


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
    prompt_ids = tokenizer(render(row.messages, tokenizer), add_special_tokens=False).input_ids
    answer_ids = [*tokenizer(row.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    if not row.logprobs:
        return Example(prompt_ids, answer_ids), 0.0
    targets = align(answer_ids, table, from_openai(row.logprobs), vocabulary)
    soft_ids = [list(target.ids) for target in targets]
    soft_logprobs = [list(target.logprobs) for target in targets]
    return Example(prompt_ids, answer_ids, soft_ids, soft_logprobs), aligned_share(targets)


def _renders(messages: Messages, tokenizer: Any) -> bool:
    from jinja2 import TemplateError

    try:
        return bool(render(messages, tokenizer))
    except (TemplateError, TypeError):
        return False


def _normalised(content: Any) -> str:
    text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    return " ".join(text.casefold().split())


def _identity(messages: Messages) -> str:
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
