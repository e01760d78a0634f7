"""The gateway's world and the shared engine, for this folder."""

from tests.engine_fixtures import tiny_engine, tiny_model
from tests.gateway_fixtures import (
    module_world,
    module_world_without_release,
    router,
    world,
    world_without_release,
)

__all__ = (
    "module_world",
    "module_world_without_release",
    "router",
    "tiny_engine",
    "tiny_model",
    "world",
    "world_without_release",
)
