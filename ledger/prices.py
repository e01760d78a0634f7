"""What a request costs. Prices come from settings, in currency units; costs are integer nano-units."""

from fractions import Fraction
from functools import lru_cache

import msgspec

from ledger.records import NANO

__all__ = ("Price", "Tokens", "cost_nano")


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model's provider asks, in currency units."""

    input: float = 0.0
    """Per million prompt tokens."""
    output: float = 0.0
    """Per million completion tokens."""
    cached_input: float | None = None
    """Per million prompt tokens that the provider had cached; unset: as ``input``."""
    request: float = 0.0
    """Per request."""


class Tokens(msgspec.Struct, frozen=True):
    """Token counts of one upstream call, as in OpenAI's ``usage``: ``cached`` is a part of ``prompt``."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def cost_nano(price: Price, tokens: Tokens) -> int:
    """Cost of one call, in nano-units: exact in the prices as they are written, rounded once, half to even.

    More cached tokens than prompt tokens, which a provider should not report, are not credited.
    """
    cached_price = price.input if price.cached_input is None else price.cached_input
    cached = min(tokens.cached, tokens.prompt)
    per_million = (
        (tokens.prompt - cached) * _exact(price.input)
        + cached * _exact(cached_price)
        + tokens.completion * _exact(price.output)
    )
    return round((per_million / 1_000_000 + _exact(price.request)) * NANO)


@lru_cache(maxsize=64)
def _exact(price: float) -> Fraction:
    """The decimal that was written in the settings, which its float only approximates."""
    return Fraction(repr(price))
