"""The gateway's world, for this folder."""

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
    "world",
    "world_without_release",
)
