"""Content hashes of folders: what a release is verified by."""

import hashlib
from pathlib import Path

__all__ = ("folder_hash",)


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
