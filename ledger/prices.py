"""What a request costs. Prices come from settings, in currency units; costs are integer nano-units."""

import msgspec

from ledger.records import NANO

__all__ = ("Price", "Tokens", "cost_nano")


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``input``, ``output`` and ``cached_input`` are per million tokens, ``request`` is per request.

    ``cached_input`` defaults to ``input``.
    """

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None
    request: float = 0.0


class Tokens(msgspec.Struct, frozen=True):
    """Token counts of one upstream call, as in OpenAI's ``usage``: ``cached`` is a part of ``prompt``."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def cost_nano(price: Price, tokens: Tokens) -> int:
    """Cost of one call, in nano-units."""
    cached_price = price.input if price.cached_input is None else price.cached_input
    per_million = (
        (tokens.prompt - tokens.cached) * price.input
        + tokens.cached * cached_price
        + tokens.completion * price.output
    )
    return round(per_million * (NANO / 1_000_000)) + round(price.request * NANO)
