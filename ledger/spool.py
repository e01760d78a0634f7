"""The write path of the ledger: an append-only file per process, read back by offset.

A frame is ``length (u32 LE) | crc32 (u32 LE) | payload``. `SpoolWriter.append` returns after one ``write``:
a killed process loses nothing that was appended. `SpoolWriter.sync` (called off the event loop every 200 ms) bounds
what a power cut can take. A torn tail, left by a crash in the middle of a write, is skipped by the reader.
"""

import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

__all__ = ("FRAME_HEADER", "MAX_PAYLOAD", "SpoolWriter", "being_written", "read_frames", "segments")

FRAME_HEADER: Final = struct.Struct("<II")
MAX_PAYLOAD: Final = 256 * 1024 * 1024
SEGMENT_BYTES: Final = 16 * 1024 * 1024

log = structlog.get_logger(__name__)


class SpoolWriter:
    """Appends frames to ``<folder>/<pid>-<n>.spool`` and starts a new segment at 16 MiB.

    A full or failing disk never fails the caller: `append` returns False, and ``failures`` counts what was not
    written, for a metric.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._number = 0
        self._size = 0
        self._file: int | None = None
        self._dirty = False
        self.failures = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def append(self, payload: bytes) -> bool:
        """Write one frame. False when the disk refused it."""
        frame = FRAME_HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        with self._lock:
            try:
                file = self._open()
                written = os.write(file, frame)
                if written != len(frame):
                    # a short write is a full disk: cut the torn frame off so that later ones stay readable
                    os.ftruncate(file, self._size)
                    raise OSError(28, "spool write was cut short")
            except OSError as error:
                self.failures += 1
                log.error("spool_write_failed", error=str(error), failures=self.failures)
                return False
            self._size += len(frame)
            self._dirty = True
            if self._size >= self._segment_bytes:
                self._close()
            return True

    def sync(self) -> None:
        """Make what was appended so far survive a power cut. Blocks for the disk: call it off the event loop."""
        with self._lock:
            if self._file is None or not self._dirty:
                return
            file = os.dup(self._file)
            self._dirty = False
        try:
            os.fdatasync(file)
        finally:
            os.close(file)

    def close(self) -> None:
        """Sync and close. A later append opens a new segment."""
        self.sync()
        with self._lock:
            self._close()

    def _open(self) -> int:
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            while True:
                path = self._folder / f"{os.getpid()}-{self._number:06d}.spool"
                self._number += 1
                try:
                    self._file = os.open(path, flags, 0o600)
                except FileExistsError:
                    continue
                # held until the segment is closed or the process is gone: `being_written` asks for it
                fcntl.flock(self._file, fcntl.LOCK_EX)
                break
            self._size = 0
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            os.fdatasync(self._file)
            os.close(self._file)
            self._file = None
            self._dirty = False


def being_written(path: Path) -> bool:
    """True while a living process holds the segment open for appending."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def segments(folder: Path) -> list[Path]:
    """The spool's files, oldest first."""
    found = [(path.stat().st_mtime_ns, path) for path in folder.glob("*.spool")]
    return [path for _, path in sorted(found)]


def read_frames(path: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield ``(offset after the frame, payload)`` for the whole frames from ``offset`` on.

    Stops at the first incomplete or damaged frame: while its writer lives, that is a frame being written; after a
    crash, the torn tail.
    """
    with path.open("rb") as file:
        file.seek(offset)
        while True:
            header = file.read(FRAME_HEADER.size)
            if len(header) < FRAME_HEADER.size:
                return
            length, crc = FRAME_HEADER.unpack(header)
            if length > MAX_PAYLOAD:
                return
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload) != crc:
                return
            offset += FRAME_HEADER.size + length
            yield offset, payload
