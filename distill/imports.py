"""History from elsewhere into the ledger, so that a team begins with what it has already paid for.

A file is read record by record, in flat memory. A row's id is a hash of what it says, so that the same file again
changes nothing. Its reason is ``imported``: like traffic from before the first release, all of it went to the
teacher, so that its propensity is 1 and it may be held out as it is.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import DataError, IntegrityError

from distill.data.rows import hash64
from distill.exchange import Exchange, Unreadable
from distill.import_formats import format_of, is_batch_input, read_exchange
from distill.log_files import MAX_LINE, entries
from ledger.prices import Price, cost_nano
from ledger.records import IMPORTED, Content, RequestRecord
from ledger.requests import insert_records
from ledger.store import Store

__all__ = ("AUTO", "BatchInputs", "ImportOptions", "Imported", "import_files")

AUTO: Final = "auto"
BATCH: Final = 500
MAX_MODEL: Final = 200
MAX_FINISH: Final = 32
TOLD: Final = 20
"""So many bad lines are kept in the report."""
OFFSET_BITS: Final = 48
"""Of a place, where a file's offset is; its number is above."""
REFUSALS: Final = (DataError, IntegrityError, OverflowError, RecursionError)

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ImportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How lines become rows."""

    format: str = AUTO
    """Lines in another format are bad ones; ``auto`` takes each as what it is."""
    key_id: str | None = None
    """The key that the rows belong to, for caps per key; no budget counts them."""
    model: str = ""
    """Who answered, where a line does not say."""
    price: Price | None = None
    """What its tokens cost; None records no cost."""
    dry_run: bool = False


class Imported(msgspec.Struct, kw_only=True):
    """What came of it. With ``dry_run`` nothing is written, and ``imported`` counts what could be."""

    dry_run: bool = False
    lines: int = 0
    imported: int = 0
    known: int = 0
    """Exchanges that the ledger had already, or that came twice."""
    bad: int = 0
    not_trainable: int = 0
    with_logprobs: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano: int = 0
    bad_lines: list[str] = []
    """The first ones, each with its place and what is wrong."""


def import_files(
    store: Store, paths: Sequence[Path], options: ImportOptions, on_bytes: Callable[[int], None]
) -> Imported:
    """Read the files and insert what is new; ``on_bytes`` is told how many more bytes were read.

    A line that cannot be read is counted, and the rest goes in. Raises ``OSError`` for a file that cannot be opened.
    """
    inputs = BatchInputs()
    for path in paths:
        inputs.index(path)
    work = _Import(store, options, Imported(dry_run=options.dry_run))
    with inputs:
        for path in paths:
            if path not in inputs.files:
                mtime_ms = path.stat().st_mtime_ns // 1_000_000
                for place, found in entries(path, on_bytes):
                    work.take(place, found, (mtime_ms, inputs.sent))
        work.flush()
    return work.done


@dataclass
class _Import:
    """Rows on their way into the store."""

    store: Store
    options: ImportOptions
    done: Imported
    _rows: dict[str, RequestRecord] = field(default_factory=dict[str, RequestRecord])

    def take(
        self, place: str, found: list[dict[str, Any]] | Unreadable, by: tuple[int, Callable[[str], dict[str, Any]]]
    ) -> None:
        """Take in what is at a place; ``by`` are the file's time and what gives a batch's input."""
        self.done.lines += 1
        try:
            if isinstance(found, Unreadable):
                raise found
            for line in found:
                form = format_of(line)
                if self.options.format not in (AUTO, form):
                    raise Unreadable(f"it is in the format {form}")
                self._add(read_exchange(line, form, by[1]), by[0])
        except (Unreadable, OverflowError, RecursionError) as error:
            self._refuse(place, str(error))

    def flush(self) -> None:
        """Insert what was gathered."""
        rows, self._rows = list(self._rows.values()), {}
        if self.options.dry_run or not rows:
            self.done.imported += len(rows)
            return
        try:
            new = insert_records(self.store, rows)
        except REFUSALS:
            new = sum(self._insert_alone(row) for row in rows)
        self.done.imported += new
        self.done.known += len(rows) - new

    def _add(self, exchange: Exchange, mtime_ms: int) -> None:
        record = _record(exchange, self.options, mtime_ms)
        if record.id in self._rows:
            self.done.known += 1
            return
        self._rows[record.id] = record
        self.done.not_trainable += not record.trainable
        self.done.with_logprobs += exchange.logprobs is not None
        self.done.prompt_tokens += record.prompt_tokens
        self.done.completion_tokens += record.completion_tokens
        self.done.cost_nano += record.cost_nano
        if len(self._rows) >= BATCH:
            self.flush()

    def _insert_alone(self, row: RequestRecord) -> int:
        try:
            return insert_records(self.store, [row])
        except REFUSALS as error:
            self._refuse(row.id, f"the ledger cannot hold it: {str(error).splitlines()[0]}")
            return 0

    def _refuse(self, place: str, why: str) -> None:
        self.done.bad += 1
        if len(self.done.bad_lines) < TOLD:
            self.done.bad_lines.append(f"{place}: {why}")


class BatchInputs:
    """Where each request of a batch is, by its ``custom_id``: what was sent is in a file of its own.

    Of each request 16 bytes are kept: a hash of its name, and its place.
    """

    def __init__(self) -> None:
        self.files: dict[Path, BinaryIO] = {}
        self._names, self._places = array("Q"), array("Q")
        self._order: NDArray[np.int64] | None = None

    def index(self, path: Path) -> None:
        """Remember the places in a file of requests; any other file is left alone after its first line."""
        at, number = 0, len(self.files)
        with path.open("rb") as file:
            for raw in iter(lambda: file.readline(MAX_LINE), b""):
                line = _try(raw)
                if at == 0 and not (line and is_batch_input(line)):
                    return
                name = line.get("custom_id") if line else None
                if isinstance(name, str):
                    self._names.append(hash64(name))
                    self._places.append(number << OFFSET_BITS | at)
                at += len(raw)
        self.files[path] = path.open("rb")
        self._order = None

    def sent(self, custom_id: str) -> dict[str, Any]:
        """The request of this name. Raises `Unreadable`."""
        found = [line for line in self._named(custom_id) if line.get("custom_id") == custom_id]
        if not found:
            raise Unreadable(f"there is no request with the custom_id {custom_id!r}: give the batch's input file too")
        if len(found) > 1:
            raise Unreadable(f"several requests have the custom_id {custom_id!r}: import one batch at a time")
        return found[0]

    def _named(self, custom_id: str) -> Iterator[dict[str, Any]]:
        names, files = np.asarray(self._names), list(self.files.values())
        if self._order is None:
            self._order = np.argsort(names, kind="stable")
        hashed = np.uint64(hash64(custom_id))
        first, end = (int(np.searchsorted(names, hashed, side, self._order)) for side in ("left", "right"))
        for row in self._order[first:end].tolist():
            number, at = divmod(self._places[row], 1 << OFFSET_BITS)
            files[number].seek(at)
            yield _try(files[number].readline(MAX_LINE)) or {}

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, *_exception: object) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()


def _record(exchange: Exchange, options: ImportOptions, mtime_ms: int) -> RequestRecord:
    content = Content(
        messages=exchange.messages,
        parameters=exchange.parameters,
        answer=exchange.answer,
        tool_calls=exchange.tool_calls,
        teacher_logprobs=exchange.logprobs,
    )
    said = [exchange.own_id, content.messages, content.parameters, content.answer, content.tool_calls]
    cost = cost_nano(options.price, exchange.tokens) if options.price is not None else 0
    return RequestRecord(
        id=f"imp_{hashlib.sha256(_encode(said)).hexdigest()[:32]}",
        created_at=exchange.created_at or mtime_ms,
        key_id=options.key_id,
        model=(exchange.model or options.model)[:MAX_MODEL],
        route="teacher",
        reason=IMPORTED,
        finish_reason=exchange.finish_reason[:MAX_FINISH],
        prompt_tokens=exchange.tokens.prompt,
        completion_tokens=exchange.tokens.completion,
        cached_tokens=exchange.tokens.cached,
        cost_nano=cost,
        baseline_nano=cost,
        trainable=exchange.trainable,
        content=content,
    )


def _try(raw: bytes) -> dict[str, Any] | None:
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
