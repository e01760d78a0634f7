"""The write path of the ledger: an append-only file per process, read back by offset.

A frame is ``length (u32 LE) | crc32 of length and payload (u32 LE) | payload``. `SpoolWriter.append` returns after
one ``write``: a killed process loses nothing that was appended. `SpoolWriter.sync` (called off the event loop every
200 ms) bounds what a power cut can take. A torn tail, left by a crash in the middle of a write, is skipped by the
reader.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import structlog

__all__ = ("FRAME_HEADER", "MAX_PAYLOAD", "SpoolWriter", "being_written", "frame", "read_frames", "segments")

FRAME_HEADER: Final = struct.Struct("<II")
MAX_PAYLOAD: Final = 256 * 1024 * 1024
SEGMENT_BYTES: Final = 16 * 1024 * 1024

log = structlog.get_logger(__name__)


def frame(payload: bytes) -> bytes:
    """The payload with its header. Raises ``OSError`` (EFBIG) above `MAX_PAYLOAD`, where no reader would take it."""
    if len(payload) > MAX_PAYLOAD:
        raise OSError(errno.EFBIG, f"a payload of {len(payload)} bytes is larger than a frame may be")
    return FRAME_HEADER.pack(len(payload), _checksum(payload)) + payload


def _checksum(payload: bytes) -> int:
    # the length is in it so that zeros, which a power cut leaves at the end of a file, are not a frame
    return zlib.crc32(payload, zlib.crc32(len(payload).to_bytes(4, "little")))


class SpoolWriter:
    """Appends frames to ``<folder>/<pid>-<token>-<n>.spool`` and starts a new segment at 16 MiB. The random token
    keeps names unique where process ids repeat, as they do in containers: readers remember how far they are by name.

    A full or failing disk never fails the caller: `append` returns False, and ``failures`` counts what was not
    written, for a metric.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._token = secrets.token_hex(4)
        self._number = 0
        self._size = 0
        self._file: int | None = None
        self._full: list[int] = []
        self._dirty = False
        self.failures = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def append(self, payload: bytes) -> bool:
        """Write one frame. False when the disk refused it."""
        with self._lock:
            try:
                self._write(frame(payload))
            except OSError as error:
                self.failures += 1
                log.error("spool_write_failed", error=str(error), failures=self.failures)
                return False
            return True

    def sync(self) -> None:
        """Make what was appended so far survive a power cut, and close full segments. Blocks for the disk: call it
        off the event loop.
        """
        with contextlib.ExitStack() as stack:
            with self._lock:
                files, self._full = self._full, []
                if self._file is not None and self._dirty:
                    files.append(os.dup(self._file))
                self._dirty = False
            for file in files:
                stack.callback(os.close, file)
            for file in files:
                os.fdatasync(file)

    def close(self) -> None:
        """Sync and close. A later append opens a new segment."""
        with self._lock:
            self._end_segment()
        self.sync()

    def _write(self, whole: bytes) -> None:
        file = self._open()
        if os.write(file, whole) != len(whole):
            # a short write is a full disk: cut the torn frame off so that later ones stay readable
            os.ftruncate(file, self._size)
            raise OSError(errno.ENOSPC, "spool write was cut short")
        self._size += len(whole)
        self._dirty = True
        if self._size >= self._segment_bytes:
            self._end_segment()

    def _open(self) -> int:
        if self._file is None:
            while self._file is None:
                self._file = self._new_segment()
            self._size = 0
        return self._file

    def _new_segment(self) -> int | None:
        """Open the next segment and lock it until it is closed or the process is gone: `being_written` asks for
        that. None when a reader found the empty file before it was locked, and removed it.
        """
        path = self._folder / f"{os.getpid()}-{self._token}-{self._number:06d}.spool"
        self._number += 1
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with contextlib.ExitStack() as unless_locked:
            unless_locked.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:
                unless_locked.pop_all()
                return file
        return None

    def _end_segment(self) -> None:
        # not synced here, on the event loop: `sync` does that and closes it, and readers wait for that
        if self._file is not None:
            self._full.append(self._file)
            self._file = None


@contextlib.contextmanager
def being_written(path: Path) -> Generator[bool]:
    """True while a living process appends to the segment, or another one is about to remove it. Where it is False,
    the caller alone may remove the segment until the block ends.

    Raises ``FileNotFoundError`` for a segment that is gone.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            written = False
        except BlockingIOError:
            written = True
        yield written


def segments(folder: Path) -> list[Path]:
    """The spool's files, oldest first."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("*.spool"):
        # another process may remove it meanwhile
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime_ns, path))
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
            if len(payload) < length or _checksum(payload) != crc:
                return
            offset += FRAME_HEADER.size + length
            yield offset, payload
