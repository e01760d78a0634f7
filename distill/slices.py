"""Parts of the held-out requests, by tag, comparator, model name, length and script: is any of them left behind?

Many small parts are looked at, so that some look bad by luck alone. A part rejects a candidate only where a test
*shows* it, with Holm's correction for all parts that are judged: a candidate that keeps every floor is rejected with
a chance of 5% at most, however many parts there are.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from distill.evaluate import Replayed, agreement_interval
from distill.gate_settings import GateSettings
from distill.intervals import discordant, holm, shown_below, shown_worse
from router.features import RequestView

__all__ = ("ALPHA", "Slice", "below_floors", "slices_of", "worse_than_champion")

ALPHA: Final = 0.05
SHORT, LONG = 200, 2_000
"""Characters of the user's turns."""
LOOKED_AT: Final = 400
"""Characters that a script is told by."""


class Slice(msgspec.Struct, frozen=True):
    """One part: how many agreed of how many, with the exact 95% interval of the share."""

    name: str
    n: int
    agreed: int
    low: float
    high: float
    better: int | None = None
    """Requests on which only the candidate agreed, and not the champion; None without one."""
    worse: int | None = None

    @property
    def share(self) -> float:
        """Of its requests that agreed."""
        return self.agreed / self.n

    def shown(self) -> str:
        """Its name and share for a sentence."""
        return f"{self.name} {self.share:.1%} of {self.n}"


def slices_of(candidate: Sequence[Replayed], champion: Sequence[Replayed] | None) -> list[Slice]:
    """The parts, largest first. ``champion`` are its answers to the same requests, in the same order.

    A part that holds every request, or the same ones as another, is left out.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for at, row in enumerate(candidate):
        for name in _names(row):
            places[name].append(at)
    distinct = {tuple(at): name for name, at in reversed(places.items()) if len(at) < len(candidate)}
    parts = [_slice(name, at, candidate, champion) for at, name in distinct.items()]
    return sorted(parts, key=lambda part: (-part.n, part.name))


def below_floors(settings: GateSettings, slices: Sequence[Slice]) -> list[tuple[Slice, float, float]]:
    """Each part that has a floor and is large enough: itself, its floor, and the p-value for the whole family."""
    floors = [(part, settings.slice_floors.get(part.name, settings.min_slice_agreement)) for part in slices]
    judged = [(part, floor) for part, floor in floors if floor > 0 and part.n >= settings.min_slice_size]
    adjusted = holm([shown_below(part.agreed, part.n, floor) for part, floor in judged])
    return [(part, floor, p) for (part, floor), p in zip(judged, adjusted, strict=True)]


def worse_than_champion(settings: GateSettings, slices: Sequence[Slice]) -> list[tuple[Slice, float]]:
    """Each part that is large enough, and the p-value for the whole family of its being worse than the champion's."""
    judged = [part for part in slices if part.better is not None and part.n >= settings.min_slice_size]
    adjusted = holm([shown_worse(part.better or 0, part.worse or 0) for part in judged])
    return list(zip(judged, adjusted, strict=True))


def _slice(name: str, at: Sequence[int], candidate: Sequence[Replayed], champion: Sequence[Replayed] | None) -> Slice:
    agreed = [candidate[i].agreed for i in at]
    _, low, high = agreement_interval(agreed)
    pairs = discordant(agreed, [champion[i].agreed for i in at]) if champion is not None else (None, None)
    return Slice(name, len(at), sum(agreed), low, high, *pairs)


def _names(row: Replayed) -> Iterator[str]:
    request = row.request
    yield from (f"tag:{tag}" for tag in dict.fromkeys(request.tags))
    yield f"comparator:{row.comparator}"
    if request.model:
        yield f"model:{request.model}"
    text = RequestView.from_body({"messages": request.messages}).text()
    yield f"length:{'short' if len(text) <= SHORT else 'medium' if len(text) <= LONG else 'long'}"
    yield f"script:{_script(text)}"


def _script(text: str) -> str:
    """The script of most letters, by the first word of their Unicode names: ``latin``, ``cyrillic``, ``cjk``."""
    counts = Counter(unicodedata.name(letter, "none").split()[0] for letter in text[:LOOKED_AT] if letter.isalpha())
    return counts.most_common(1)[0][0].lower() if counts else "none"
