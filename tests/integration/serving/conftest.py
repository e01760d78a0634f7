"""The shared engine, for this folder."""

from tests.engine_fixtures import tiny_engine, tiny_model

__all__ = ("tiny_engine", "tiny_model")
