"""What a worker does between jobs, each thing now and then: a small list of passes."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

__all__ = ("Pass", "run_due")

log = structlog.get_logger(__name__)


@dataclass
class Pass:
    """``run`` is bounded work, at most once in ``every_s`` seconds, and the first time at once."""

    name: str
    run: Callable[[], Awaitable[None]]
    every_s: float = 60.0
    due_at: float = 0.0


async def run_due(passes: Sequence[Pass]) -> None:
    """Run those whose time has come, one after another. A store that is away costs the pass, and not the worker."""
    for each in passes:
        if time.monotonic() < each.due_at:
            continue
        each.due_at = time.monotonic() + each.every_s
        try:
            await each.run()
        except SQLAlchemyError as error:
            log.warning("pass_failed", what=each.name, error=str(error).splitlines()[0])
