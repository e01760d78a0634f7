"""Tables that are shown on a page and given as CSV from the same values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from dashboards import words
from dashboards.ranges import TimeRange
from ledger.records import NANO

__all__ = ("COUNT", "MONEY", "MS", "SHARE", "TEXT", "WHEN", "Kind", "Table")


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value is written on the page, and how in CSV: there nothing is rounded."""

    shown: Callable[[Any], str]
    plain: Callable[[Any], Any]
    is_number: bool = True


def _same(value: Any) -> Any:
    return value


def _units(nano: int | None) -> Decimal | None:
    return None if nano is None else Decimal(nano) / NANO


def _text(value: Any) -> str:
    return words.NOTHING if value in (None, "") else str(value)


TEXT: Final = Kind(_text, _same, is_number=False)
COUNT: Final = Kind(words.count, _same)
MONEY: Final = Kind(words.money, _units)
SHARE: Final = Kind(words.percent, _same)
MS: Final = Kind(words.milliseconds, _same)
WHEN: Final = Kind(words.when, words.when, is_number=False)


@dataclass(frozen=True, slots=True)
class Table:
    """``name`` is what CSV is asked for by; ``columns`` are names with the kind of their values."""

    name: str
    caption: str
    columns: Sequence[tuple[str, Kind]]
    values: Sequence[Sequence[Any]]
    empty: str = "Nothing yet."
    links: Sequence[str] = ()
    """Where the first cell of each row leads; empty for nowhere."""

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return [name for name, _ in self.columns]

    @property
    def numeric(self) -> list[int]:
        """Positions of the columns that are set to the right."""
        return [i for i, (_, kind) in enumerate(self.columns) if kind.is_number]

    @property
    def rows(self) -> list[list[str]]:
        """As the page shows them."""
        kinds = [kind for _, kind in self.columns]
        return [[kind.shown(value) for kind, value in zip(kinds, row, strict=True)] for row in self.values]

    @property
    def plain(self) -> list[list[Any]]:
        """As CSV has them."""
        kinds = [kind for _, kind in self.columns]
        return [[kind.plain(value) for kind, value in zip(kinds, row, strict=True)] for row in self.values]

    def filename(self, chosen: TimeRange) -> str:
        """Of the CSV."""
        return f"stillroom-{self.name}-{chosen.name or chosen.words.replace(' ', '-')}.csv"
