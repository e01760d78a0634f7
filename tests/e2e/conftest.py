"""The tiny model, for this folder."""

from tests.engine_fixtures import tiny_model

__all__ = ("tiny_model",)
