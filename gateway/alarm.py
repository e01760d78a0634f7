"""A deadline for work that several tasks do in turn, as the reading of a stream does."""

import asyncio
from types import TracebackType

__all__ = ("Alarm",)

EARLY_S = 0.005
"""uvloop's clock counts milliseconds, so a timer may come a little early."""


class Alarm:
    """``with alarm:`` around what awaits; it is interrupted with `TimeoutError` when the time is over.

    Unlike `asyncio.timeout` it is not bound to one task, interrupts nobody between two such blocks, and costs one
    timer whatever the number of blocks. Times are those of the running loop's clock. `stop` it in the end.
    """

    __slots__ = ("_cancelling", "_handle", "_loop", "_rang", "_task", "_when")

    def __init__(self, when: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._when = when
        self._rang = False
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._handle = self._loop.call_at(when, self._ring)

    def move(self, when: float) -> None:
        """To a later time."""
        self._when = when

    def stop(self) -> None:
        """It does not ring any more."""
        self._handle.cancel()

    def _ring(self) -> None:
        if self._loop.time() < self._when - EARLY_S:
            self._handle = self._loop.call_at(self._when, self._ring)
            return
        self._rang = True
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> None:
        """Raises `TimeoutError` when the time was over before."""
        if self._rang:
            raise TimeoutError
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Raises `TimeoutError` when the block was interrupted."""
        task, self._task = self._task, None
        if not self._rang or task is None:
            return
        # as asyncio.timeout: a cancellation of another's stays one
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
