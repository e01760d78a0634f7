"""Where log lines go: a full disk or a reader that is gone costs the line, and not the request that wrote it."""

import contextlib
from typing import TextIO, cast

__all__ = ("unfailing",)


class _Unfailing:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def unfailing(stream: TextIO) -> TextIO:
    """The stream, as one that never raises ``OSError``. It can be written and flushed, and nothing else."""
    return cast("TextIO", _Unfailing(stream))
