"""How many lines of batches may be asked at once: what interactive requests leave, within a bound."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.admission import Admission
from ledger.rollups import DAY_MS

__all__ = ("Room",)

LOOK_S: Final = 0.05

log = structlog.get_logger(__name__)


@dataclass
class Room:
    """Shared by all batches of this process."""

    admission: Admission
    taken: int = 0

    @property
    def keep_ms(self) -> int:
        """How long files are kept."""
        return round(self.admission.settings.batches.keep_days * DAY_MS)

    def is_free(self) -> bool:
        """Whether a line may begin now: each interactive request in flight takes a place, all but the last one.

        A gateway with half of all it can hold in flight begins none.
        """
        settings, others = self.admission.settings, self.admission.in_flight - self.taken
        if self.admission.in_flight * 2 >= settings.max_in_flight:
            return False
        return self.taken < max(1, settings.batches.concurrency - max(0, others))

    async def enter(self, stops: Callable[[], bool]) -> bool:
        """Wait for a place and take it; False, and none taken, once it ``stops``."""
        while not stops():
            if self.is_free():
                self.taken += 1
                return True
            await asyncio.sleep(LOOK_S)
        return False

    def leave(self) -> None:
        """Give a place back."""
        self.taken -= 1

    def complain(self, batch_id: str, error: BaseException) -> None:
        """A batch cannot go on now."""
        log.warning("batch_waits", batch=batch_id, error=str(error).partition("\n")[0])
