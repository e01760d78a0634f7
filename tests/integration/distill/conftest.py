"""The tiny model, and a world of jobs around it."""

from tests.engine_fixtures import tiny_model
from tests.integration.distill.worlds import world

__all__ = ("tiny_model", "world")
