"""Which server processes there should be, as a pure function of what the ledger wants and what runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.settings import Swap

__all__ = ("Plan", "Seen", "plan")


@dataclass(frozen=True, slots=True)
class Seen:
    """A process that runs: its key, the release it serves, and whether it answers. ``main`` takes new weights."""

    key: str
    release: str
    ready: bool
    main: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """``start`` names releases; ``keep`` and ``main`` name processes, all others are to end. ``swap`` is the release
    that the main process is to serve instead of its own.
    """

    keep: frozenset[str]
    start: tuple[str, ...] = ()
    main: str | None = None
    swap: str | None = None


def plan(swap: Swap, wanted: Sequence[str], live: str | None, seen: Sequence[Seen], replicas: int = 1) -> Plan:
    """What to do next. ``wanted`` are the releases to be served, the live one among them.

    ``blue_green``: a process for each, and so many ``replicas`` for the live one. ``in_place``: one process serves
    the live release, whichever that is, and a candidate has one of its own until it is live there.
    """
    if swap != "in_place" or live is None:
        keep = frozenset(each.key for each in seen if each.release in wanted)
        return Plan(keep, tuple(_missing(wanted, live, seen, replicas)))
    served = {each.release for each in seen}
    main = next((each for each in seen if each.main), None) or next((e for e in seen if e.release == live), None)
    if main is None:
        keep = frozenset(each.key for each in seen if each.release in wanted)
        return Plan(keep, tuple(release for release in wanted if release not in served))
    taken_over = main.release if main.ready else None
    keep = {each.key for each in seen if each.release in wanted and each.release != taken_over}
    start = tuple(release for release in wanted if release not in served and release != live)
    return Plan(frozenset(keep | {main.key}), start, main.key, live if main.release != live else None)


def _missing(wanted: Sequence[str], live: str | None, seen: Sequence[Seen], replicas: int) -> Iterator[str]:
    for release in wanted:
        running = sum(each.release == release for each in seen)
        for _ in range(running, replicas if release == live else 1):
            yield release
