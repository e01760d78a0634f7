"""Which of the rows that may be taken are: duplicates, screens, the keys' shares, replay and size, in this order."""

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from distill.data.index import RowIndex
from distill.data.outliers import drop_unlikely
from distill.data.rows import unit
from distill.data.weights import priority, priority_sample, weights_of
from distill.settings import DistillSettings

__all__ = ("Chosen", "choose", "distinct", "held_out")

NOT_CHOSEN: Final = "beyond_max_examples"
ALWAYS: Final = (-(1 << 63), (1 << 63) - 1)
SCHEMA: Final = (
    "create temp table clusters(number integer primary key, cluster integer)",
    "create temp table newest(rank integer primary key, number integer)",
    "create temp table held(rank integer primary key, number integer)",
    "create temp table taken(rank integer primary key, number integer, chance real)",
)
NEWEST_OF_EACH: Final = """
    insert into newest
    select max(number) as rank, max(corrected << 40 | number) & 0xFFFFFFFFFF from rows group by identity order by rank
"""
HELD: Final = """
    insert into held
    select rank, number from newest join rows using (number) where held_out order by rank
"""
ALIKE: Final = """
    create temp table alike as
    select max(rank) as rank, max(corrected << 40 | rank) & 0xFFFFFFFFFF as stays,
        count(*) as size, sum(held_out) as held_out
    from newest join rows using (number) left join clusters using (number)
    group by coalesce(cluster, number) order by 1
"""
DIFFERENT: Final = """
    select alike.rank, number, 1.0 from alike join newest on newest.rank = stays where not held_out
"""
NEWEST: Final = """
    insert into taken select rank, number, 1.0 from trainable
    where created_at between :first and :last order by rank desc limit :most
"""
BY_PRIORITY: Final = """
    select rank, number, interest, draw(id) from trainable
    where created_at between :first and :last order by priority(interest, draw(id)) desc, rank
"""
DRAWN: Final = np.dtype([("rank", "i8"), ("number", "i8"), ("interest", "f8"), ("draw", "f8")])
CHOSEN: Final = np.dtype([("number", "i8"), ("chance", "f8"), ("old", "?")])


@dataclass(frozen=True, eq=False)
class Chosen:
    """Numbers of rows to train on, oldest first, and the weight of each."""

    train: NDArray[np.int64]
    weights: NDArray[np.float64]
    replayed: int
    held_out: int
    """How many rows are."""


def distinct(index: RowIndex, clusters: Iterable[tuple[int, int]], dropped: Counter[str]) -> None:
    """Put the rows to train on and those held out into ``train`` and ``held``, without duplicates.

    Of a request that came back the newest answer stays, and counts as new; what a person put right stays so, whatever
    the teacher answers later. Of near-duplicates the newest stays, of those of a held-out request none. The held-out
    rows are a sample of the traffic, and keep their near-duplicates. ``clusters`` are pairs of a row and what its
    near-duplicates have in common; a row without is like no other.
    """
    for statement in SCHEMA:
        index.execute(statement)
    index.insert("insert into clusters values (?, ?)", clusters)
    dropped["duplicate"] += len(index) - index.execute(NEWEST_OF_EACH).rowcount
    index.execute(HELD)
    index.execute(ALIKE)
    dropped["near_held_out"] += index.number_of("select sum(size - held_out) from alike where held_out")
    dropped["near_duplicate"] += index.number_of("select sum(size - 1) from alike where not held_out")
    index.keep(DIFFERENT)


def held_out(index: RowIndex) -> Iterator[tuple[str, int]]:
    """Ids and numbers of the rows that are held out, oldest first."""
    return index.execute("select id, number from held join rows using (number) order by rank")


def choose(index: RowIndex, settings: DistillSettings, last_dataset_at: int | None, dropped: Counter[str]) -> Chosen:
    """Choose among the distinct rows."""
    dropped["unlikely_answer"] += drop_unlikely(index, settings.data.likelihood_z)
    dropped["key_cap"] += _cap_keys(index, settings)
    _fit(index, settings, last_dataset_at, dropped)
    # fewer rows than were allowed for: a key's share of them may have grown too large
    dropped["key_cap"] += _cap_keys(index, settings)
    left = np.fromiter(
        index.execute(
            "select number, propensity * chance, created_at <= :last from trainable order by rank",
            last=-1 if last_dataset_at is None else last_dataset_at,
        ),
        CHOSEN,
    )
    held = index.number_of("select count(*) from held")
    return Chosen(left["number"], weights_of(left["chance"]), int(left["old"].sum()), held)


def _fit(index: RowIndex, settings: DistillSettings, last_dataset_at: int | None, dropped: Counter[str]) -> None:
    """Leave as many rows as may be, with the chance of each to be taken."""
    share, most = settings.data.replay_share, settings.max_examples
    if share is None or last_dataset_at is None:
        _take(index, ALWAYS, most, settings)
        dropped[NOT_CHOSEN] += index.keep("select * from taken")
        return
    before, since = (ALWAYS[0], last_dataset_at), (last_dataset_at + 1, ALWAYS[1])
    old = index.number_of("select count(*) from trainable where created_at <= :last", last=last_dataset_at)
    room = min(old, int(share * most))
    new = _take(index, since, most - room, settings)
    if share < 1:
        room = min(room, int(share / (1 - share) * new))
    replayed = _take(index, before, room, settings)
    dropped["replay_share"] += old - replayed
    dropped[NOT_CHOSEN] += index.keep("select * from taken") - old + replayed


def _take(index: RowIndex, when: tuple[int, int], most: int, settings: DistillSettings) -> int:
    """Put at most so many rows of a time into ``taken``, with the chance of each to be taken; returns how many."""
    values = {"first": when[0], "last": when[1]}
    if settings.data.selection == "newest":
        return index.execute(NEWEST, most=most, **values).rowcount
    index.offer("draw", lambda request: 1.0 - unit(f"choose:{request}"), 1)
    index.offer("priority", priority, 2)
    ordered = index.execute(BY_PRIORITY, **values)
    some = np.sort(np.fromiter(islice(ordered, most + 1), DRAWN), order="rank")
    ordered.close()
    places, chances = priority_sample(some["interest"], some["draw"], most)
    taken = (some[name][places].tolist() for name in ("rank", "number"))
    index.insert("insert into taken values (?, ?, ?)", zip(*taken, chances.tolist(), strict=True))
    return places.size


def _cap_keys(index: RowIndex, settings: DistillSettings) -> int:
    """Keep each key's newest rows, as many as leave it ``max_share_per_key`` of the dataset; returns how many go."""
    counts = [n for (n,) in index.execute("select count(*) from trainable group by key")]
    cap = _largest_cap(counts, settings)
    if cap == max(counts, default=0):
        return 0
    return index.keep(
        """
        select rank, number, chance from (
            select *, row_number() over (partition by key order by rank desc) as nth from trainable
        ) where nth <= :cap order by rank
        """,
        cap=cap,
    )


def _largest_cap(counts: list[int], settings: DistillSettings) -> int:
    """The most rows a key may have and stay within its share of what all then have; 0 if there is no such cap."""
    share, most = settings.max_share_per_key, max(counts, default=0)
    if share >= 1:
        return most

    def too_many(cap: int) -> bool:
        return cap > share * min(settings.max_examples, sum(min(n, cap) for n in counts))

    # what all keys have grows ever slower with the cap, so that once a cap is too large, every larger one is
    return bisect.bisect_left(range(1, most + 1), True, key=too_many)
