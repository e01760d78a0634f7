"""The folder of files: each is whole or not there. What a batch has answered grows beside them, line by line."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ("Folder", "Part", "lines_of", "new_file_id")

LINES_AT_ONCE: Final = 200


def new_file_id() -> str:
    """An id that names a file safely."""
    return f"file-{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class Folder:
    """``files`` in the home folder; gateways that share a store share it too, or each serves what it was given."""

    path: Path

    def of(self, name: str) -> Path:
        """Where a file is, by an id of ours."""
        return self.path / name

    def save(self, file_id: str, source: BinaryIO) -> int:
        """Write a file whole, and make it last. Returns its bytes."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        making = self.of(f".{file_id}.new")
        try:
            with making.open("wb") as out:
                shutil.copyfileobj(source, out, 1024 * 1024)
                out.flush()
                os.fsync(out.fileno())
                size = out.tell()
            self._settle(making, file_id)
        finally:
            making.unlink(missing_ok=True)
        return size

    def seal(self, part: str, file_id: str) -> int:
        """A part that is done becomes a file. Returns its bytes; 0, and no file, where it is empty.

        Done again after a crash it comes to the same.
        """
        growing, made = self.of(part), self.of(file_id)
        if growing.exists():
            if growing.stat().st_size == 0:
                growing.unlink()
                return 0
            with growing.open("rb") as written:
                os.fsync(written.fileno())
            self._settle(growing, file_id)
        return made.stat().st_size if made.exists() else 0

    def remove(self, name: str) -> None:
        """Delete a file or a part, if it is there."""
        self.of(name).unlink(missing_ok=True)

    def _settle(self, written: Path, file_id: str) -> None:
        written.replace(self.of(file_id))
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Part:
    """A file that grows by whole lines, each with one write: a process that is killed leaves whole lines behind.

    Only one process has it open; ``OSError`` for another.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise

    @staticmethod
    def lines(path: Path) -> Iterator[bytes]:
        """What is there, after cutting off a line that a power cut has torn."""
        if not path.exists():
            return
        with path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(path.stat().st_size - len(line))
                    return
                yield line

    def add(self, line: bytes) -> None:
        """Write a line, with the break at its end."""
        self._file.write(line)

    def close(self) -> None:
        """No more lines."""
        self._file.close()


def lines_of(path: Path) -> Iterator[list[tuple[int, bytes]]]:
    """The lines of a file that hold anything, numbered from 1, many at a time."""
    with path.open("rb") as file:
        some: list[tuple[int, bytes]] = []
        for number, line in enumerate(file, 1):
            if line.strip():
                some.append((number, line))
            if len(some) == LINES_AT_ONCE:
                yield some
                some = []
        yield some
