"""The tokens of an answer with their log-probabilities, as the router and the ledger read them."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeGuard

import msgspec
from msgspec import UNSET, UnsetType

from gateway.wire import objects
from router.signals import SIGNAL_TOP, TokenLogprob

__all__ = ("BELIEVABLE", "Listed", "Token", "is_number", "least_likely", "scored", "signals", "token_of")

BELIEVABLE: Final = 10**9
"""A count or a log-probability beyond this is not believed: sums of it would not fit the ledger's columns."""

_Logprob = Annotated[float, msgspec.Meta(ge=-BELIEVABLE, le=BELIEVABLE)]
_Bytes = list[int] | None | UnsetType


class Listed(msgspec.Struct, gc=False):
    """An alternative of a token."""

    logprob: _Logprob
    token: str | UnsetType = UNSET
    bytes: _Bytes = UNSET


class Token(msgspec.Struct, gc=False):
    """One entry of OpenAI's ``logprobs.content``."""

    token: str
    logprob: _Logprob
    bytes: _Bytes = UNSET
    top_logprobs: list[Listed] = []


def token_of(sent: dict[str, Any]) -> Token | None:
    """From JSON of any shape: what of it is a token. None where it is none."""
    token, logprob = sent.get("token"), sent.get("logprob")
    if not isinstance(token, str) or not is_number(logprob):
        return None
    listed = [
        Listed(float(value), name if isinstance(name := top.get("token"), str) else UNSET, _bytes(top))
        for top in objects(sent.get("top_logprobs"))
        if is_number(value := top.get("logprob"))
    ]
    return Token(token, float(logprob), _bytes(sent), listed)


def signals(tokens: Sequence[Token], count: int) -> list[TokenLogprob]:
    """An answer as the router reads it: the first ``count`` tokens, `SIGNAL_TOP` deep, always.

    The router was trained on answers that were cut in the same way.
    """
    return [TokenLogprob(token.logprob, _top(token.top_logprobs)) for token in tokens[:count]]


def least_likely(tokens: Sequence[Token]) -> tuple[str, float] | None:
    """The token that the model was least sure of, and its log-probability."""
    if not tokens:
        return None
    least = min([token.logprob for token in tokens])
    return next((token.token, least) for token in tokens if token.logprob == least)


def scored(tokens: Sequence[Token]) -> list[tuple[str, int]] | None:
    """Each token with its log-probability in thousandths, which is exact enough to be looked at; None of none."""
    return [(token.token, int(token.logprob * 1_000)) for token in tokens] or None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is one, and to be believed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= BELIEVABLE


def _top(listed: list[Listed]) -> tuple[float, ...]:
    found = [each.logprob for each in listed]
    found.sort(reverse=True)
    return tuple(found[:SIGNAL_TOP])


def _bytes(sent: dict[str, Any]) -> _Bytes:
    value = sent.get("bytes", UNSET)
    try:
        return msgspec.convert(value, list[int]) if isinstance(value, list) else None if value is None else UNSET
    except msgspec.ValidationError:
        return UNSET
