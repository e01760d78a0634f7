"""A file by which whoever replaces machines one by one (Kubernetes) knows that this one's students answer."""

import contextlib
from pathlib import Path
from typing import Final

__all__ = ("FILE", "tell")

FILE: Final = "students.ready"
"""In the home. It says so as long as it is not older than some seconds."""


def tell(home: Path, are_ready: bool) -> None:
    """Touch the file, or remove it."""
    # a full disk must not end students that answer
    with contextlib.suppress(OSError):
        if are_ready:
            (home / FILE).touch()
        else:
            (home / FILE).unlink(missing_ok=True)
