"""The n-grams of short texts word by word, from a memory of words: what the router pays per request.

Traffic repeats its words. On a text of a few hundred characters, looking up each word's n-grams and counting them
is cheaper than dozens of small NumPy calls. Columns and weights are those of `hashing`.
"""

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, pairwise

from router.hashing import BASE, CHAR_BITS, CHAR_SIZES, PAIR, SCATTER, WORD_BITS, WORD_BUCKETS

__all__ = ("MAX_CHARS", "MAX_NEW_WORDS", "WORDS", "Lexicon")

MAX_CHARS = 1_500
MAX_NEW_WORDS = 48
"""A text with more words that were never seen is cheaper to hash as a whole."""
WORDS = 16_384
LONGEST = 64
"""A longer word is not kept: it is a key or a number that does not come again."""

_WORD = re.compile(r"\w+")
_MASK = (1 << 64) - 1
_POWERS = [pow(BASE, i, 1 << 64) for i in range(LONGEST)]
_LOG = [0.0, 0.0, *(math.log(count) for count in range(2, MAX_CHARS + 3))]


@dataclass
class Lexicon:
    """Words that were seen, each with its character n-grams. When it is full, it begins anew."""

    _grams: dict[str, "array[int]"] = field(default_factory=dict[str, "array[int]"])

    def __len__(self) -> int:
        """How many words it knows."""
        return len(self._grams)

    def dot(self, text: str, weights: Sequence[float]) -> float | None:
        """The weights' product with the n-grams of a text; None for one that is too long or too new."""
        if len(text) > MAX_CHARS:
            return None
        chars = self._chars(text.split())
        if chars is None:
            return None
        words = _words(_WORD.findall(text))
        return _block(words, weights) + _block(chars, weights)

    def _chars(self, words: list[str]) -> Counter[int] | None:
        known = self._grams
        new = {word for word in words if word not in known}
        if len(new) > MAX_NEW_WORDS or any(len(word) > LONGEST - 2 for word in new):
            return None
        if len(known) + len(new) > WORDS:
            self._grams = known = {word: known[word] for word in words if word in known}
        for word in new:
            known[word] = _char_columns(word)
        return Counter(chain.from_iterable(map(known.__getitem__, words)))


def _block(counts: Counter[int], weights: Sequence[float]) -> float:
    """Weight 1 + log(count) for each n-gram, the block of unit norm."""
    if not counts:
        return 0.0
    total, squares = sum(map(weights.__getitem__, counts)), float(len(counts))
    if len(counts) < counts.total():
        for column, count in counts.items():
            if count > 1:
                more = _LOG[count]
                total += weights[column] * more
                squares += (2.0 + more) * more
    return total / math.sqrt(squares)


def _words(words: Iterable[str]) -> Counter[int]:
    hashes = list(map(_word_hash, words))
    pairs = [(first * PAIR + second) & _MASK for first, second in pairwise(hashes)]
    shift = 64 - WORD_BITS
    return Counter([(((h ^ (h >> 32)) * SCATTER) & _MASK) >> shift for h in chain(hashes, pairs)])


@lru_cache(maxsize=WORDS)
def _word_hash(word: str) -> int:
    return sum(ord(char) * pow(BASE, i, 1 << 64) for i, char in enumerate(word)) & _MASK


def _char_columns(word: str) -> "array[int]":
    points = [32, *map(ord, word), 32]
    columns = array("I")
    for start in range(len(points) - 1):
        h = points[start]
        for size in range(2, min(CHAR_SIZES[-1], len(points) - start) + 1):
            h += points[start + size - 1] * _POWERS[size - 1]
            g = h & _MASK
            columns.append(((((g ^ (g >> 32)) * SCATTER) & _MASK) >> (64 - CHAR_BITS)) + WORD_BUCKETS)
    return columns
