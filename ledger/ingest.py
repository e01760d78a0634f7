"""Moves spooled records into the store, in batches, until the spool is empty.

Any process may ingest any segment: inserts are idempotent by request id. A segment is deleted when its writer is
done with it and every frame of it is in the store; a damaged tail is kept beside it as ``*.torn``, and records that
the store can never take, as frames in ``*.refused`` (a record may be in there more than once).
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from ledger.records import RequestRecord, decode_record, encode_record
from ledger.requests import insert_records
from ledger.spool import being_written, frame, read_frames, segments
from ledger.store import Store

__all__ = ("Ingester",)

BATCH = 500
BATCH_BYTES = 1024 * 1024
"""Records with log-probabilities take several times as much once they are read, and the event loop waits for them."""
REFUSALS = (DataError, IntegrityError, OverflowError, RecursionError)
"""What a driver raises for a row that no retry will get in."""

log = structlog.get_logger(__name__)


@dataclass
class Ingester:
    """Remembers how far each segment was read. `run_once` is called every little while, from one thread."""

    folder: Path
    store: Store
    _offsets: dict[Path, int] = field(default_factory=dict[Path, int])

    def run_once(self) -> int:
        """Move what is there now. Returns the number of new rows. Raises the store's error when it is away:
        nothing is lost then. The next call reads the segments from their beginnings, as the store that comes back
        may be an older one.
        """
        found = segments(self.folder)
        self._offsets = {path: self._offsets[path] for path in found if path in self._offsets}
        try:
            return sum(self._ingest(path) for path in found)
        except SQLAlchemyError:
            self._offsets.clear()
            raise

    def backlog_bytes(self) -> int:
        """Bytes in the spool that are not known to be in the store."""
        total = 0
        for path in segments(self.folder):
            with contextlib.suppress(FileNotFoundError):
                total += max(0, path.stat().st_size - self._offsets.get(path, 0))
        return total

    def _ingest(self, path: Path) -> int:
        new = 0
        # another process may be faster with this segment
        with contextlib.suppress(FileNotFoundError), being_written(path) as written:
            batch: list[RequestRecord] = []
            size, offset = 0, self._offsets.get(path, 0)
            for end, payload in read_frames(path, offset):
                offset, size = end, size + len(payload)
                record = _decode(payload, path)
                if record is not None:
                    batch.append(record)
                if len(batch) >= BATCH or size >= BATCH_BYTES:
                    new += self._store(path, batch, offset)
                    batch, size = [], 0
            new += self._store(path, batch, offset)
            if not written:
                _finish(path, offset)
        return new

    def _store(self, path: Path, batch: list[RequestRecord], offset: int) -> int:
        try:
            new = insert_records(self.store, batch)
        except REFUSALS:
            new = sum(self._store_alone(path, record) for record in batch)
        self._offsets[path] = offset
        return new

    def _store_alone(self, path: Path, record: RequestRecord) -> int:
        try:
            return insert_records(self.store, [record])
        except REFUSALS as error:
            _refuse(path, encode_record(record), str(error).splitlines()[0])
            return 0


def _finish(path: Path, offset: int) -> None:
    torn = path.stat().st_size - offset
    if torn:
        log.warning("spool_tail_torn", segment=path.name, bytes=torn)
        path.rename(path.with_suffix(".torn"))
    else:
        path.unlink()


def _decode(payload: bytes, path: Path) -> RequestRecord | None:
    try:
        return decode_record(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        _refuse(path, payload, str(error))
        return None


def _refuse(path: Path, payload: bytes, why: str) -> None:
    """Keep it, and let the records after it pass."""
    kept = path.with_suffix(".refused")
    log.error("spool_record_refused", kept_in=kept.name, error=why)
    with kept.open("ab") as file:
        file.write(frame(payload))
