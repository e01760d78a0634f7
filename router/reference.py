"""How a router's own figures were spread over the requests it was trained on: what later traffic is held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

__all__ = ("STEPS", "Reference", "quantiles", "read_reference")

STEPS: Final = 20
"""Equal steps of probability between two neighbouring quantiles: there are `STEPS` + 1 of them."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`STEPS` + 1 quantiles each, from least to greatest, of what the router said out of fold of `rows` requests."""

    rows: int
    score: tuple[float, ...]
    confidence: tuple[float, ...]
    novelty: tuple[float, ...]


class _Described(msgspec.Struct):
    reference: Reference | None = None


def quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """The values' `STEPS` + 1 quantiles, each one of the values; empty for none.

    Each is the least value that is not below j / STEPS of them (the inverse of their distribution function), since an
    interpolated one would bound neither side of it where values repeat.
    """
    ranked, n = sorted(values), len(values)
    return tuple(ranked[max(-(-j * n // STEPS), 1) - 1] for j in range(STEPS + 1)) if n else ()


def read_reference(router: Path) -> Reference | None:
    """That of a saved router's folder, without loading its weights; None where there is none to read."""
    try:
        return msgspec.json.decode((router / "router.json").read_bytes(), type=_Described).reference
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
