"""Content hashes of release folders, and the check that what is loaded is what was released.

A finished release's ``manifest.json`` holds the hash of each part beside it (``student``, ``router``, ``adapter``
and so on), and the ledger holds the hash of the manifest: whoever loads one part reads the manifest and that part, no
more. A candidate has no manifest until it is evaluated: the ledger then holds its student's hash.
"""

import hashlib
from pathlib import Path
from typing import Any, Final, cast

import msgspec

__all__ = ("MANIFEST", "ArtifactError", "file_hash", "folder_hash", "read_manifest", "seal", "verify_part")

MANIFEST: Final = "manifest.json"


class ArtifactError(ValueError):
    """Files that are missing, or not those that were released."""


def folder_hash(folder: Path, leave_out: frozenset[str] = frozenset()) -> str:
    """SHA-256 over the relative path, size and content of every file below a folder, in hex.

    ``leave_out`` names files (relative, POSIX) that do not count, such as the manifest that quotes the hash.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in leave_out:
            continue
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path, facts: dict[str, Any]) -> str:
    """Write the manifest: ``facts``, and the hash of every part of the folder. Returns the release's content hash."""
    parts = {
        path.name: folder_hash(path) if path.is_dir() else file_hash(path)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    unfinished = folder / f".{MANIFEST}"
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(facts | {"parts": parts})))
    unfinished.replace(folder / MANIFEST)
    return file_hash(folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any]:
    """A release's manifest; empty where it has none that can be read."""
    try:
        found: Any = msgspec.json.decode((folder / MANIFEST).read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def verify_part(folder: Path, part: str, content_hash: str) -> Path:
    """The part's path, once it is known to be what the ledger's ``content_hash`` speaks of.

    Raises `ArtifactError`, and ``OSError`` where a file cannot be read.
    """
    manifest = folder / MANIFEST
    if manifest.is_file() and file_hash(manifest) == content_hash:
        expected = read_manifest(folder).get("parts", {}).get(part)
    else:
        expected = content_hash if part == "student" else None
    path = folder / part
    if expected is None:
        raise ArtifactError(f"{path} is not vouched for: {manifest} is missing or not what was released")
    if not path.exists():
        raise ArtifactError(f"{path} is missing: restore it")
    found = folder_hash(path) if path.is_dir() else file_hash(path)
    if found != expected:
        raise ArtifactError(f"{path} is not what was released: restore it")
    return path
