"""A release as requests meet it."""

from dataclasses import dataclass

from router.model import RouterModel
from router.thresholds import Thresholds

__all__ = ("LiveRelease",)


@dataclass(frozen=True, slots=True)
class LiveRelease:
    """A student and its router, switched as one."""

    id: str
    router: RouterModel
    student_urls: tuple[str, ...]
    student_model: str | None = None
    """What its students are asked for, where each release is a model of its own (`serving`'s adapters)."""
    on_trial: bool = False
    """Its students are not the champion's, and what they fail at is not counted against those."""
    set_aside: Thresholds | None = None
    """The thresholds that it came with, where a person has set others and its router keeps to those."""

    @property
    def own_thresholds(self) -> Thresholds:
        """The thresholds that it came with."""
        return self.set_aside or self.router.thresholds
