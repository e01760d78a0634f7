"""An archive's files: rows of a table as Parquet at an fsspec URL, a folder for each day.

A file gets its name once what was read back of it is what was written; until then it ends in ``.part``, which no
reader takes for one. Its name is a hash of its rows: archived again, the same rows come to the same file.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from ledger.remote import opened, saying

__all__ = ("ArchiveError", "ArchiveFiles", "Archived", "Row", "is_same", "key_of")

ROWS_AT_ONCE: Final = 10_000
NAME_DIGITS: Final = 16
TYPES: Final[tuple[tuple[type[Any], pa.DataType], ...]] = (
    (sa.Boolean, pa.bool_()),
    (sa.Integer, pa.int64()),
    (sa.Float, pa.float64()),
    (sa.JSON, pa.list_(pa.string())),
    (sa.String, pa.string()),
)
"""Of columns, the first that fits. JSON is lists of text here."""

Row = Mapping[str, Any]
Key = tuple[Any, ...]


class ArchiveError(Exception):
    """It cannot be archived; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Archived:
    """A row as a file has it: the hash of these columns, which are all that there were then."""

    columns: tuple[str, ...]
    hash: bytes


def key_of(table: sa.Table, row: Row) -> Key:
    """The values of the primary key."""
    return tuple(row[column.name] for column in table.primary_key)


def is_same(row: Row, archived: Archived) -> bool:
    """Whether a row of the ledger is the archived one."""
    return _hash(row, archived.columns) == archived.hash


@dataclass(frozen=True, slots=True)
class ArchiveFiles:
    """The archive at a URL."""

    url: str

    def rows(self, table: sa.Table, day: int) -> dict[Key, Archived]:
        """All that is archived of a day (days since the epoch). Raises `ArchiveError`, `ArtifactError`."""
        store, root = opened(self.url)
        found: dict[Key, Archived] = {}
        with saying(self.url):
            folder = _folder(root, table, day)
            paths = [str(each) for each in store.find(folder)] if store.exists(folder) else []
            for path in sorted(path for path in paths if path.endswith(".parquet")):
                found.update(_read(store, path, table))
        return found

    def write(self, table: sa.Table, day: int, batches: Iterable[Sequence[Row]]) -> int:
        """Add rows to a day. Returns how many. Raises `ArchiveError`, `ArtifactError`."""
        store, root = opened(self.url)
        folder = _folder(root, table, day)
        with tempfile.TemporaryDirectory(prefix="stillroom-archive-") as scratch, saying(self.url):
            local = Path(scratch) / "rows.parquet"
            count, digest = _write_local(local, table, batches)
            whole = f"{folder}/{digest[:NAME_DIGITS]}.parquet"
            part = f"{whole}.part"
            store.makedirs(folder, exist_ok=True)
            try:
                store.put_file(str(local), part)
                # what a place kept of what it was given is seen by reading it only
                store.invalidate_cache(folder)
                if _digest(each.hash for _, each in _read(store, part, table)) != digest:
                    raise ArchiveError(f"{part} is not what was written there")
                store.mv(part, whole)
            finally:
                with contextlib.suppress(OSError):
                    if store.exists(part):
                        store.rm_file(part)
            _outlast_a_power_cut(store, whole)
        return count


def _folder(root: str, table: sa.Table, day: int) -> str:
    at = datetime.fromtimestamp(day * 86_400, UTC)
    return f"{root}/{table.name}/day={at:%Y-%m-%d}"


def _write_local(path: Path, table: sa.Table, batches: Iterable[Sequence[Row]]) -> tuple[int, str]:
    """Returns how many rows there are, and the digest of their hashes."""
    names, count = tuple(table.columns.keys()), 0
    schema = pa.schema([(column.name, _type(column)) for column in table.columns])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:

        def written() -> Iterator[bytes]:
            nonlocal count
            for rows in batches:
                writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))
                count += len(rows)
                yield from (_hash(row, names) for row in rows)

        digest = _digest(written())
    return count, digest


def _type(column: sa.Column[Any]) -> pa.DataType:
    return next(arrow for kind, arrow in TYPES if isinstance(column.type, kind))


def _read(store: Any, path: str, table: sa.Table) -> Iterator[tuple[Key, Archived]]:
    try:
        with store.open(path, "rb") as opened_file:
            file = pq.ParquetFile(opened_file)
            names = tuple(name for name in file.schema_arrow.names if name in table.columns)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(names)):
                for row in batch.to_pylist():
                    yield key_of(table, row), Archived(names, _hash(row, names))
    except (pa.ArrowException, KeyError) as error:
        raise ArchiveError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _hash(row: Row, names: Sequence[str]) -> bytes:
    written = msgspec.msgpack.encode([row[name] for name in names])
    return hashlib.blake2b(written, digest_size=16).digest()


def _digest(hashes: Iterable[bytes]) -> str:
    """Of rows in whatever order."""
    return f"{sum(int.from_bytes(each, 'big') for each in hashes) % 2**128:032x}"


def _outlast_a_power_cut(store: Any, path: str) -> None:
    """What lies on this machine's own disk is made to stay there, and so is its name."""
    if "file" not in (store.protocol if isinstance(store.protocol, tuple) else (store.protocol,)):
        return
    for place in (Path(path), Path(path).parent):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
