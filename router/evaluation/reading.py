"""Rows of a table in a file, one at a time: CSV, TSV, JSON and JSON lines, gzipped or not, and Parquet."""

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Final, cast

__all__ = ("Row", "TableError", "files_of", "read_rows")

Row = Mapping[str, Any]
LONGEST_CELL = 1 << 30
"""Characters: a cell may hold a model's whole answer."""
PARQUET_ROWS = 256


class TableError(Exception):
    """A table cannot be read or does not hold what is asked for; the message is for its user."""


def files_of(path: Path) -> list[Path]:
    """The file itself, or the tables of a directory by name. Raises TableError if there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise TableError(f"{path}: no such file or directory")
    found = sorted(file for file in path.iterdir() if file.is_file() and _kind(file) in READERS)
    if not found:
        raise TableError(f"{path}: holds no table ({_kinds()})")
    return found


def read_rows(path: Path) -> Iterator[Row]:
    """The rows, by column. Raises TableError where the file is not what its name says, with the line where known."""
    kind = _kind(path)
    if kind not in READERS:
        raise TableError(f"{path}: not a kind of file that is read ({_kinds()})")
    try:
        yield from READERS[kind](path)
    except (csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise TableError(f"{path}: {error}") from error


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _kinds() -> str:
    return ", ".join(READERS)


def _text(path: Path) -> IO[str]:
    # A byte that is no UTF-8 in somebody's prompt must not keep the other rows from being read.
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    return cast("IO[str]", opened(path, "rt", encoding="utf-8-sig", errors="replace", newline=""))


def _delimited(delimiter: str) -> Callable[[Path], Iterator[Row]]:
    def read(path: Path) -> Iterator[Row]:
        csv.field_size_limit(LONGEST_CELL)
        with _text(path) as file:
            lines = csv.reader(file, delimiter=delimiter)
            columns = next(lines, [])
            for line in lines:
                if line:
                    yield dict(zip_longest(columns, line[: len(columns)]))

    return read


def _json_lines(path: Path) -> Iterator[Row]:
    with _text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _record(_decoded(line, f"{path}: line {number}"), f"{path}: line {number}")


def _json(path: Path) -> Iterator[Row]:
    with _text(path) as file:
        text = file.read()
    if text.lstrip()[:1] != "[":
        yield from _json_lines(path)
        return
    for number, value in enumerate(_decoded(text, str(path)), 1):
        yield _record(value, f"{path}: record {number}")


def _decoded(text: str, where: str) -> Any:
    # the standard library's decoder, since tables hold the NaN that Python writes and JSON has not
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{where}: not JSON ({error})") from error


def _record(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise TableError(f"{where}: not an object with a value for each column")
    return cast("Row", value)


def _parquet(path: Path) -> Iterator[Row]:
    if find_spec("pyarrow") is None:
        raise TableError(f"{path}: Parquet needs pyarrow; pip install 'stillroom[train]'")
    import pyarrow  # noqa: PLC0415 -- of the extra `train`, and only here
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 -- same

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise TableError(f"{path}: {str(error).splitlines()[0]}") from error


READERS: Final[dict[str, Callable[[Path], Iterator[Row]]]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
