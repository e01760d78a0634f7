"""Several calls for one answer: the first good one is kept, the others are closed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

__all__ = ("abandon", "first_good")

T = TypeVar("T")


async def first_good(tasks: "Sequence[asyncio.Task[T]]", is_good: Callable[[T], bool]) -> "asyncio.Task[T]":
    """The first that ends well; where none does, the first of them. Raises what a task raised."""
    pending: set[asyncio.Task[T]] = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done and is_good(task.result()):
                return task
    return tasks[0]


async def abandon(tasks: "Iterable[asyncio.Task[T]]", drop: Callable[[T], Awaitable[None]]) -> None:
    """Cancel the tasks; a result that was there already is given to ``drop``."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(ended, BaseException):
            await drop(ended)
