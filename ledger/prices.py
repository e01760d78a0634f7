"""What a request costs. Prices come from settings, in currency units; costs are integer nano-units."""

import math
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
    fresh, cached_input, output, request, divisor = _whole(price)
    cached = min(tokens.cached, tokens.prompt)
    dividend = (tokens.prompt - cached) * fresh + cached * cached_input + tokens.completion * output + request
    quotient, rest = divmod(dividend, divisor)
    if 2 * rest == divisor:
        return quotient + quotient % 2
    return quotient + (2 * rest > divisor)


@lru_cache(maxsize=64)
def _whole(price: Price) -> tuple[int, int, int, int, int]:
    """Nano-units per fresh, cached and completion token and per request, all over one divisor.

    Of the decimals that were written in the settings, which their floats only approximate.
    """
    cached = price.input if price.cached_input is None else price.cached_input
    per_token = [Fraction(repr(amount)) * NANO / 1_000_000 for amount in (price.input, cached, price.output)]
    amounts = [*per_token, Fraction(repr(price.request)) * NANO]
    divisor = math.lcm(*(amount.denominator for amount in amounts))
    fresh, cached_input, output, request = (int(amount * divisor) for amount in amounts)
    return fresh, cached_input, output, request, divisor
