"""Which of the rows that may be taken are: duplicates, screens, the keys' shares, replay and size, in this order."""

import bisect
from collections import Counter
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distill.data.index import RowIndex
from distill.data.outliers import unlikely
from distill.data.rows import unit
from distill.data.weights import priority_sample, weights_of
from distill.settings import DistillSettings

__all__ = ("Chosen", "Rows", "choose", "distinct")

Rows: TypeAlias = NDArray[np.int64]
NOT_CHOSEN: Final = "beyond_max_examples"


@dataclass(frozen=True, eq=False)
class Chosen:
    """Numbers of rows, oldest first, and the weight of each that is trained on."""

    train: Rows
    weights: NDArray[np.float64]
    replayed: int


def distinct(index: RowIndex, clusters: Rows | None, dropped: Counter[str]) -> tuple[Rows, Rows]:
    """The rows to train on and those held out, oldest first, without duplicates.

    Of a request that came back the newest answer stays, and counts as new; what a person put right stays so, whatever
    the teacher answers later. Of near-duplicates the newest stays, of those of a held-out request none. The held-out
    rows are a sample of the traffic, and keep their near-duplicates.
    """
    held_out, corrected = index.held_out, index.corrected
    rows, rank = _newest(index.identity, corrected, np.arange(len(index)))
    dropped["duplicate"] += len(index) - rows.size
    train, train_rank = rows[~held_out[rows]], rank[~held_out[rows]]
    held = rows[held_out[rows]]
    if clusters is not None:
        crosses = np.isin(clusters[train], clusters[held])
        dropped["near_held_out"] += int(crosses.sum())
        train, train_rank = train[~crosses], train_rank[~crosses]
        before = train.size
        places, train_rank = _newest(clusters[train], corrected[train], train_rank)
        train = train[places]
        dropped["near_duplicate"] += before - train.size
    return train[np.argsort(train_rank)], held[np.argsort(rank[held_out[rows]])]


def choose(
    index: RowIndex, train: Rows, settings: DistillSettings, last_dataset_at: int | None, dropped: Counter[str]
) -> Chosen:
    """Choose among distinct rows, oldest first."""
    strange = unlikely(index.likelihood[train], settings.data.likelihood_z) & ~index.corrected[train]
    dropped["unlikely_answer"] += int(strange.sum())
    kept = _cap_keys(index, train[~strange], settings, dropped)
    taken, chances, replayed = _fit(index, kept, settings, last_dataset_at, dropped)
    # fewer rows than were allowed for: a key's share of them may have grown too large
    left = _cap_keys(index, taken, settings, dropped)
    stays = np.isin(taken, left)
    weights = weights_of(index.propensity[left].astype(np.float64) * chances[stays])
    return Chosen(left, weights, int(replayed[stays].sum()))


def _newest(group: NDArray[np.generic], corrected: NDArray[np.bool_], rank: Rows) -> tuple[Rows, Rows]:
    """The place of each group's row that stays, and the rank of its newest row."""
    if not group.size:
        return np.zeros(0, dtype=np.int64), rank
    order = np.lexsort((rank, corrected, group))
    starts = np.flatnonzero(np.append(True, group[order][1:] != group[order][:-1]))
    last = np.append(starts[1:], group.size) - 1
    return order[last], np.maximum.reduceat(rank[order], starts)


def _fit(
    index: RowIndex, rows: Rows, settings: DistillSettings, last_dataset_at: int | None, dropped: Counter[str]
) -> tuple[Rows, NDArray[np.float64], NDArray[np.bool_]]:
    """As many rows as may be, the chance of each to be taken, and which are older than the last dataset."""
    share, most = settings.data.replay_share, settings.max_examples
    old = index.created_at[rows] <= (last_dataset_at if last_dataset_at is not None else -1)
    if share is None or last_dataset_at is None:
        taken, chances = _take(index, rows, most, settings)
        dropped[NOT_CHOSEN] += rows.size - taken.size
        return rows[taken], chances, old[taken]
    room = min(int(old.sum()), int(share * most))
    new, new_chances = _take(index, rows[~old], most - room, settings)
    if share < 1:
        room = min(room, int(share / (1 - share) * new.size))
    replayed, old_chances = _take(index, rows[old], room, settings)
    dropped["replay_share"] += int(old.sum()) - replayed.size
    dropped[NOT_CHOSEN] += int((~old).sum()) - new.size
    places = np.concatenate([np.flatnonzero(old)[replayed], np.flatnonzero(~old)[new]])
    order = np.argsort(places)
    taken = places[order]
    return rows[taken], np.concatenate([old_chances, new_chances])[order], old[taken]


def _take(index: RowIndex, rows: Rows, most: int, settings: DistillSettings) -> tuple[Rows, NDArray[np.float64]]:
    """The places of at most so many rows, ascending, and the chance of each to be taken."""
    if settings.data.selection == "newest":
        newest = np.arange(max(0, rows.size - most), rows.size)
        return newest, np.ones(newest.size)
    draws = np.array([1.0 - unit(f"choose:{index.id_of(row)}") for row in rows.tolist()])
    return priority_sample(index.interest[rows].astype(np.float64), draws, most)


def _cap_keys(index: RowIndex, rows: Rows, settings: DistillSettings, dropped: Counter[str]) -> Rows:
    """Keep each key's newest rows, as many as leave it ``max_share_per_key`` of the dataset."""
    keys = index.key[rows]
    cap = _largest_cap(np.bincount(keys).tolist(), settings)
    order = np.argsort(keys[::-1], kind="stable")
    newest_first = keys[::-1][order]
    nth = np.arange(keys.size) - np.searchsorted(newest_first, newest_first)
    kept = np.zeros(keys.size, dtype=bool)
    kept[order] = nth < cap
    kept = kept[::-1]
    dropped["key_cap"] += int((~kept).sum())
    return rows[kept]


def _largest_cap(counts: list[int], settings: DistillSettings) -> int:
    """The most rows a key may have and stay within its share of what all then have; 0 if there is no such cap."""
    share, most = settings.max_share_per_key, max(counts, default=0)
    if share >= 1:
        return most

    def too_many(cap: int) -> bool:
        return cap > share * min(settings.max_examples, sum(min(n, cap) for n in counts))

    # what all keys have grows ever slower with the cap, so that once a cap is too large, every larger one is
    return bisect.bisect_left(range(1, most + 1), True, key=too_many)
