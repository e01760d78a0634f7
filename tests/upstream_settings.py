"""Changes to a world's settings that the tests of faulty upstreams have in common."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from gateway.app import GatewayConfig
from gateway.settings import FallbackTeacher
from ledger.prices import Price
from tests.gateway_fixtures import TEACHER_KEY_ENV

__all__ = ("SPARE_PRICE", "changed", "spare")

SPARE_PRICE = Price(input=5.0, output=20.0)


def changed(**tables: dict[str, Any]) -> Callable[[GatewayConfig], GatewayConfig]:
    """``teacher={"retries": 0}`` and the like."""

    def change(config: GatewayConfig) -> GatewayConfig:
        edited = {name: msgspec.structs.replace(getattr(config, name), **fields) for name, fields in tables.items()}
        return replace(config, **edited)

    return change


def spare(url: str, model: str = "frontier") -> FallbackTeacher:
    """A further teacher, dearer than the first."""
    return FallbackTeacher(base_url=url, model=model, api_key_env=TEACHER_KEY_ENV, price=SPARE_PRICE)
