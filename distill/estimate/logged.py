"""One logged request as the estimate needs it, from any export, with or without what was said."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from distill.exchange import Exchange, Line, Unreadable
from distill.gateway_exports import Told, told_by_helicone, told_by_litellm
from distill.import_formats import format_of, read_exchange
from ledger.prices import Price, Tokens, cost_nano
from ledger.records import nano

__all__ = ("Logged", "logged")

BYTES_PER_TOKEN: Final = 4
"""Where a log counts no tokens."""
TOLD: Final[dict[str, Callable[[Line], Told]]] = {"litellm": told_by_litellm, "helicone": told_by_helicone}


@dataclass(frozen=True, slots=True)
class Logged:
    """A request. ``at`` is ms since the epoch, 0 where the log does not say; ``cost`` is in nano-units, None where
    nothing says it. ``exchange`` is None where nothing was kept of what was said.
    """

    form: str
    at: int
    model: str
    tokens: Tokens
    cost: int | None
    exchange: Exchange | None
    counted: bool = True
    """The tokens are the log's own, and not guessed from the texts' lengths."""
    from_cache: bool = False
    """The other gateway's cache answered."""


def logged(line: Line, price: Price | None, sent: Callable[[str], Line]) -> Logged | None:
    """A line of a log; None for what is no answered chat. ``price`` goes before the log's own cost.

    Raises `Unreadable`.
    """
    form = format_of(line)
    told = TOLD[form](line) if form in TOLD else None
    if told is None:
        return _said(form, read_exchange(line, form, sent), price)
    if told.failed or not told.is_chat:
        return None
    try:
        return _said(form, read_exchange(line, form, sent), price, told)
    except Unreadable:
        return Logged(
            form, told.created_at or 0, told.model or "", told.tokens, _cost(told.tokens, price, told), None,
            from_cache=told.from_cache,
        )  # fmt: skip


def _said(form: str, exchange: Exchange, price: Price | None, told: Told | None = None) -> Logged:
    tokens, counted = exchange.tokens, True
    if not tokens.prompt:
        tokens, counted = _guessed(exchange), False
    cost = _cost(tokens, price, told)
    cached = told is not None and told.from_cache
    return Logged(form, exchange.created_at or 0, exchange.model or "", tokens, cost, exchange, counted, cached)


def _cost(tokens: Tokens, price: Price | None, told: Told | None) -> int | None:
    if price is not None:
        return cost_nano(price, tokens)
    return None if told is None or told.cost is None else nano(told.cost)


def _guessed(exchange: Exchange) -> Tokens:
    asked = sum(_size(message.get("content")) for message in exchange.messages)
    answered = _size(exchange.answer) + _size(exchange.tool_calls)
    return Tokens(-(-asked // BYTES_PER_TOKEN), -(-answered // BYTES_PER_TOKEN))


def _size(said: Any) -> int:
    return len(said.encode("utf-8", "surrogatepass")) if isinstance(said, str) else len(str(said)) if said else 0
