"""Moves spooled records into the store, in batches, until the spool is empty.

Any process may ingest any segment: inserts are idempotent by request id. A segment is deleted when its writer is
done with it and every frame of it is in the store; a damaged tail is kept beside it as ``*.torn``.
"""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from ledger.records import RequestRecord, decode_record
from ledger.requests import insert_records
from ledger.spool import being_written, read_frames, segments
from ledger.store import Store

__all__ = ("Ingester",)

BATCH = 500

log = structlog.get_logger(__name__)


@dataclass
class Ingester:
    """Remembers how far each segment was read. `run_once` is called every little while, from one thread."""

    folder: Path
    store: Store
    _offsets: dict[Path, int] = field(default_factory=dict[Path, int])

    def run_once(self) -> int:
        """Move what is there now. Returns the number of new rows. Raises the store's error when it is away:
        nothing is lost then, the next call starts where this one stopped.
        """
        return sum(self._ingest(path) for path in segments(self.folder))

    def backlog_bytes(self) -> int:
        """Bytes in the spool that are not known to be in the store."""
        return sum(max(0, path.stat().st_size - self._offsets.get(path, 0)) for path in segments(self.folder))

    def _ingest(self, path: Path) -> int:
        new = 0
        try:
            written = being_written(path)
            batch: list[RequestRecord] = []
            offset = self._offsets.get(path, 0)
            for end, payload in read_frames(path, offset):
                offset = end
                record = _decode(payload, path)
                if record is not None:
                    batch.append(record)
                if len(batch) >= BATCH:
                    new += self._store(path, batch, offset)
                    batch = []
            new += self._store(path, batch, offset)
            if not written:
                self._finish(path, offset)
        except FileNotFoundError:
            # another process was faster with this segment
            self._offsets.pop(path, None)
        return new

    def _store(self, path: Path, batch: list[RequestRecord], offset: int) -> int:
        new = insert_records(self.store, batch)
        self._offsets[path] = offset
        return new

    def _finish(self, path: Path, offset: int) -> None:
        torn = path.stat().st_size - offset
        if torn:
            log.warning("spool_tail_torn", segment=path.name, bytes=torn)
            path.rename(path.with_suffix(".torn"))
        else:
            path.unlink()
        self._offsets.pop(path, None)


def _decode(payload: bytes, path: Path) -> RequestRecord | None:
    try:
        return decode_record(payload)
    except msgspec.MsgspecError as error:
        log.error("spool_record_unreadable", segment=path.name, error=str(error))
        return None
