"""Tells a full disk from other faults, however a library says it, and says what to do about it."""

import re
import shutil
from pathlib import Path
from typing import Final

__all__ = ("cause",)

FULL: Final = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|database or disk is full"
    # of safetensors: Rust's own number of the error
    r"|code: (28|27|122)\b|os error (28|27|122)\b"
    # of torch, which drops the number
    r"|PytorchStreamWriter failed|unexpected pos \d+"
)
"""What Python, Arrow, SQLite, safetensors and torch write where a write found no room (ENOSPC, EFBIG, EDQUOT)."""


def cause(why: str, folder: Path) -> str:
    """A fault's one line for people: as it is, or, where the disk of ``folder`` was full, with how to mend that."""
    if not FULL.search(why):
        return why
    free = shutil.disk_usage(folder).free / 2**20
    return (
        f"disk full: {folder} has {free:,.0f} MiB left now; make room there (releases, jobs and models are in it) "
        f"and run the job again. It was said as: {why}"
    )
