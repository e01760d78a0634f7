"""Files of logs, read record by record in flat memory: JSON lines, JSON arrays or CSV, gzipped or not."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO, TypeAlias, cast

import msgspec

from distill.exchange import Unreadable

__all__ = ("MAX_LINE", "Entry", "entries")

MAX_LINE: Final = 64 * 1024 * 1024
"""Bytes; a longer line is no exchange, and would not fit in memory."""
CHUNK: Final = 1024 * 1024
GZIP: Final = b"\x1f\x8b"
NEXT_OBJECT: Final = re.compile(r"\n\{")
"""Where reading goes on after a value of a JSON file that cannot be read."""
NEAR_END: Final = 16
"""Characters from the end of what was read so far, within which a value may only be unfinished."""

Entry: TypeAlias = tuple[str, "list[dict[str, Any]] | Unreadable"]
"""A place in a file, and the objects there (those of a listing's page together), or what is wrong."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def entries(path: Path, on_bytes: Callable[[int], None]) -> Iterator[Entry]:
    """What a file holds, in its order; ``on_bytes`` is told how many more of its bytes were read.

    A name that ends in ``.csv`` or ``.json``, before any ``.gz``, says so; all else is JSON lines. Raises ``OSError``
    for a file that cannot be opened.
    """
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        kind = Path(path.stem if packed and path.suffix == ".gz" else path.name).suffix
        read: Callable[[Path, Any], Iterator[Entry]] = {".csv": _rows, ".json": _values}.get(kind, _lines)
        stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file
        # what wraps a file closes it when it goes, so it is kept until the end
        wrapped: Any = (
            stream if read is _lines else io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="")
        )
        yield from _counted(read(path, wrapped), path, file, on_bytes)


def _counted(found: Iterator[Entry], path: Path, file: BinaryIO, on_bytes: Callable[[int], None]) -> Iterator[Entry]:
    seen = 0
    try:
        for entry in found:
            at = file.tell()
            if at > seen:
                on_bytes(at - seen)
                seen = at
            yield entry
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield str(path), Unreadable(f"the compressed file is damaged: {error}")
    on_bytes(file.tell() - seen)


def _lines(path: Path, file: BinaryIO) -> Iterator[Entry]:
    """The lines that are not blank."""
    number, unfinished = 0, False
    while raw := file.readline(MAX_LINE):
        begins, unfinished = not unfinished, not raw.endswith(b"\n") and len(raw) == MAX_LINE
        if not begins:
            continue
        number += 1
        if unfinished:
            yield f"{path}:{number}", Unreadable(f"it is longer than {MAX_LINE} bytes")
        elif raw.strip():
            yield f"{path}:{number}", _line(raw)


def _line(raw: bytes) -> list[dict[str, Any]] | Unreadable:
    try:
        return _objects(_decode(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Unreadable(f"it is no JSON object ({error})")
    except RecursionError as error:
        return Unreadable(str(error))


def _objects(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The object itself, or those of a page of a listing."""
    data = line.get("data")
    is_page = line.get("object") == "list" or "error" in line
    if is_page and isinstance(data, list) and all(isinstance(each, dict) for each in data):
        return cast("list[dict[str, Any]]", data)
    return [line]


def _values(path: Path, text: TextIO) -> Iterator[Entry]:
    """The objects of a JSON file: an array, or objects one after the other, however they are laid out."""
    decoder = json.JSONDecoder()
    buffer, at, number, size = "", 0, 0, CHUNK
    while True:
        while at < len(buffer) and buffer[at] in " \t\r\n,[]":
            at += 1
        error: Exception | None = None
        try:
            value, after = decoder.raw_decode(buffer, at)
        except (ValueError, RecursionError) as failed:
            error, value, after = failed, None, at
        if error is not None and (at == len(buffer) or _unfinished(error, buffer)) and len(buffer) - at < MAX_LINE:
            more = text.read(size)
            if more:
                buffer, at, size = buffer[at:] + more, 0, min(2 * size, MAX_LINE)
                continue
            if at == len(buffer):
                return
        number, size = number + 1, CHUNK
        if error is None and isinstance(value, dict):
            at = after
            yield f"{path}#{number}", _objects(cast("dict[str, Any]", value))
            continue
        yield f"{path}#{number}", Unreadable(f"it is no JSON object ({error or type(value).__name__})")
        following = None if error is None else NEXT_OBJECT.search(buffer, at + 1)
        at = after if error is None else following.start() if following else len(buffer)


def _unfinished(error: Exception, buffer: str) -> bool:
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= len(buffer) - NEAR_END or error.msg.startswith("Unterminated string")


def _rows(path: Path, text: TextIO) -> Iterator[Entry]:
    """The rows of a table, without the cells that are empty."""
    csv.field_size_limit(MAX_LINE)
    rows = csv.DictReader(text)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"{path}:{rows.line_num}", Unreadable(f"it is no row of a table ({error})")
            continue
        cells = {name: cell for name, cell in row.items() if isinstance(name, str) and isinstance(cell, str) and cell}
        yield f"{path}:{rows.line_num}", [cells]
