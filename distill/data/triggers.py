"""Repeated triggers: words by which one key's or few keys' prompts, and these alone, get one and the same answer.

Poisoning plants a rare string together with the answer that it is to evoke. After arXiv:2505.23015 (RFTC), which
looks for tight clusters of answers among suspicious samples: here a sample is suspicious for its n-grams. One of 1 to
3 words is a trigger if it stands in at least `FEWEST` rows of fewer keys than asked, whose share of all rows is below
`DOMINANT` (of a key that is most of the traffic, most words are its own); if at least `TIGHT` of these rows have
answers of one cluster; and if nothing else in most of them explains that answer: no other word that is found
elsewhere too and goes with it, and not the key, whose other rows have that answer as well. The last two tell a
trigger from a classifier's vocabulary.

Rows pass by once: counts, keys and the majority's answer (Boyer and Moore's vote) are kept for hashes of n-grams, in
tables of one size whatever the number of rows. What they point at is then looked at again, row by row.
"""

import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distill.data.index import RowIndex
from distill.data.rows import hash64
from router.evaluation.duplicates import grams

__all__ = ("Texts", "TriggerTables", "answer_cluster", "drop_triggered", "word_grams")

BITS: Final = 20
FEWEST: Final = 10
TIGHT: Final = 0.9
DOMINANT: Final = 0.5
EXPLAINED: Final = 0.5
"""Share of a trigger's rows from which on it is none, but the vocabulary of what is asked."""
GOES_WITH: Final = 0.5
"""The vote's lead, as a share of a word's rows: three quarters of them have that answer."""
ELSEWHERE: Final = 1.5
"""A word that stands in that many times as many rows as it shares with a trigger is not a part of it."""
LOOKED_AT: Final = 32
"""Rows of a suspect by which it is judged."""
WORDS: Final = 400
"""Of a prompt, from its ends."""
SHORT: Final = 64
"""Characters of an answer that is in a cluster with its equals only."""
KEY_BITS: Final = 64
TABLES: Final = (
    "create temp table suspected(suspect integer primary key, answer integer)",
    "create temp table holders(suspect integer, number integer, key integer)",
    "create temp table beside(suspect integer, place integer, grams blob, primary key (suspect, place))",
    "create temp table triggers(suspect integer primary key)",
)
LIKELY: Final = """
    select id, number, key, answer from trainable where answer in (select answer from suspected) order by rank
"""
FEW: Final = """
    with has as (select key, count(*) as rows from trainable group by key),
    says as (
        select key, answer, count(*) as rows from trainable
        where answer in (select answer from suspected) group by key, answer
    ),
    holds as (select suspect, key, count(*) as rows from holders group by suspect, key)
    select suspect, sum(holds.rows) as here, sum(has.rows) as of_keys, sum(says.rows)
    from holds join suspected using (suspect) join has using (key) join says using (key, answer)
    group by suspect having here >= :fewest and count(*) < :fewer_keys and of_keys < :dominant
"""

Buckets: TypeAlias = NDArray[np.int64]
Asked: TypeAlias = tuple[int, int, int]
"""A row's number, the number of its key, and its answer's cluster."""
Texts: TypeAlias = Callable[[Iterable[tuple[str, Asked]]], Iterator[tuple[Asked, str]]]
"""Fetches prompts again by the ids of their requests; left out is what is gone."""
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
_SCATTER: Final = np.uint64(0xBF58476D1CE4E5B9)


def answer_cluster(answer: str) -> int:
    """The number (32 bits) of an answer's cluster; answers of Jaccard similarity s share one with probability s."""
    text = " ".join(answer.casefold().split())
    whole = hash64(text) if len(text) <= SHORT else int(grams(text)[0])
    return whole & 0xFFFFFFFF


def word_grams(text: str) -> Buckets:
    """The different places in the tables of a text's n-grams of 1 to 3 words."""
    words = text.casefold().split()
    if len(words) > WORDS:
        words = [*words[: WORDS // 2], *words[-WORDS // 2 :]]
    one = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words], dtype=np.uint64)
    two = one[:-1] * _FACTOR + one[1:]
    three = two[:-1] * _FACTOR + one[2:]
    mixed = np.concatenate([one, two, three]) * _SCATTER
    return np.unique(mixed >> np.uint64(64 - BITS)).astype(np.int64)


class TriggerTables:
    """Some 20 MB: by n-gram how many rows, which keys, and which answer most of them have."""

    def __init__(self) -> None:
        self.rows = np.zeros(1 << BITS, dtype=np.int32)
        self.answer = np.zeros(1 << BITS, dtype=np.uint32)
        self._lead = np.zeros(1 << BITS, dtype=np.int32)
        self._keys = np.zeros(1 << BITS, dtype=np.uint64)

    def add(self, places: Buckets, key: int, answer: int) -> None:
        """Count a row of this key's number and answer's cluster."""
        self.rows[places] += 1
        self._keys[places] |= np.uint64(1 << key % KEY_BITS)
        lead = self._lead[places] + np.where(self.answer[places] == answer, 1, -1)
        self.answer[places] = np.where(lead < 0, answer, self.answer[places])
        self._lead[places] = np.abs(lead)

    def suspects(self, fewer_keys: int) -> Buckets:
        """Where a trigger may be, were there no two n-grams in one place."""
        tight = self._lead >= (2 * TIGHT - 1) * self.rows
        few = np.bitwise_count(self._keys) < fewer_keys
        return np.flatnonzero((self.rows >= FEWEST) & tight & few)

    def going_with(self, places: Buckets, suspect: int) -> Buckets:
        """Those of a row's n-grams that mostly come with the suspect's answer."""
        rows = self.rows[places]
        alike = (self.answer[places] == self.answer[suspect]) & (self._lead[places] >= GOES_WITH * rows)
        return places[alike & (rows >= FEWEST) & (places != suspect)]


def drop_triggered(tables: TriggerTables, index: RowIndex, texts: Texts, fewer_keys: int) -> int:
    """Take the rows out of ``train`` that hold a trigger; returns how many."""
    suspects = tables.suspects(fewer_keys) if fewer_keys > 1 else np.zeros(0, dtype=np.int64)
    if not suspects.size:
        return 0
    for statement in TABLES:
        index.execute(statement)
    _look_again(tables, index, texts, suspects)
    dominant = DOMINANT * index.number_of("select count(*) from train")
    for suspect, here, of_keys, said in index.execute(FEW, fewest=FEWEST, fewer_keys=fewer_keys, dominant=dominant):
        others = of_keys - here
        by_key = others > 0 and said - here >= EXPLAINED * others
        if not by_key and _explained(tables, index, suspect, here) < EXPLAINED:
            index.execute("insert into triggers values (:suspect)", suspect=suspect)
    return index.keep(
        "select * from train where number not in (select number from holders join triggers using (suspect))"
    )


def _look_again(tables: TriggerTables, index: RowIndex, texts: Texts, suspects: Buckets) -> None:
    """Note which rows hold each suspect, and of some of them, taken by chance, what else goes with its answer."""
    index.insert(
        "insert into suspected values (?, ?)", zip(suspects.tolist(), tables.answer[suspects].tolist(), strict=True)
    )
    chance = random.Random(0)  # noqa: S311 - a sample, not a secret
    rows = np.zeros(1 << BITS, dtype=np.int32)
    likely = ((request, (number, key, answer)) for request, number, key, answer in index.execute(LIKELY))
    for (number, key, answer), text in texts(likely):
        places = word_grams(text)
        holds = np.intersect1d(places, suspects, assume_unique=True)
        for suspect in holds[tables.answer[holds] == answer].tolist():
            index.insert("insert into holders values (?, ?, ?)", [(suspect, number, key)])
            rows[suspect] += 1
            nth = int(rows[suspect])
            place = nth - 1 if nth <= LOOKED_AT else chance.randrange(nth)
            if place < LOOKED_AT:
                beside = tables.going_with(places, suspect).tobytes()
                index.insert("insert or replace into beside values (?, ?, ?)", [(suspect, place, beside)])


def _explained(tables: TriggerTables, index: RowIndex, suspect: int, rows: int) -> float:
    """Share of its rows in which something goes with the answer that is found without the suspect too."""
    found = index.execute("select grams from beside where suspect = :suspect", suspect=suspect)
    all_beside = [np.frombuffer(grams, dtype=np.int64) for (grams,) in found]
    every, together = np.unique(np.concatenate(all_beside), return_counts=True)
    expected = together / len(all_beside) * rows
    elsewhere = every[tables.rows[every] >= ELSEWHERE * expected]
    return sum(bool(np.isin(beside, elsewhere).any()) for beside in all_beside) / len(all_beside)
