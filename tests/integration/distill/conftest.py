"""A world of jobs around it."""

from tests.integration.distill.worlds import world

__all__ = ("world",)
