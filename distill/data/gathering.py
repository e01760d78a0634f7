"""The first pass over the ledger: every row that may be taken is met once, and only figures of it are kept."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np

from distill.data.choice import distinct
from distill.data.index import RowIndex
from distill.data.near import Sketches
from distill.data.rows import Messages, Row, conversation_text, is_held_out
from distill.data.screening import Screen, not_sampled
from distill.data.triggers import Texts, TriggerTables, answer_cluster, drop_triggered, word_grams
from distill.settings import DistillSettings
from ledger.records import Content
from ledger.request_filters import TrainableFilters
from ledger.store import Store
from ledger.trainable import fetch_trainable, stream_trainable, times_of_trainable

__all__ = ("SAY_EVERY", "Gathering", "Progress", "fetched", "row_of", "sample_texts")

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many rows are, and of how many (0 where that is not known)."""
T = TypeVar("T")
SAY_EVERY: Final = 1_000
SAMPLES, ROWS_OF_EACH = 20, 100
FETCHED: Final = 250
"""Rows whose content is in memory at once."""


@dataclass
class Gathering:
    """Takes rows, given oldest first. ``least`` is the propensity that the held-out part is thinned to."""

    settings: DistillSettings
    least: float
    renders: Callable[[Messages], bool]
    index: RowIndex
    sketches: Sketches | None
    """None where only equal prompts are duplicates."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    tables: TriggerTables = field(default_factory=TriggerTables)
    seen: int = 0

    def __post_init__(self) -> None:
        """Make ready to screen."""
        self._screen = Screen(self.settings.data, self.renders)

    def take_all(self, rows: Iterable[Row], on_progress: Progress) -> None:
        """Note every row, or why it is dropped."""
        for row in rows:
            self._take(row)
            self.seen += 1
            if self.seen % SAY_EVERY == 0:
                on_progress("reading", self.seen, 0)
        on_progress("reading", self.seen, self.seen)

    def _take(self, row: Row) -> None:
        held_out = is_held_out(row.messages, self.settings.holdout_share)
        why = self._screen.refused(row) or (not_sampled(row, self.least) if held_out else None)
        if why is not None:
            self.dropped[why] += 1
            return
        answer = answer_cluster(row.answer)
        key = self.index.add(row, held_out, answer)
        if self.sketches is not None:
            self.sketches.add(conversation_text(row.messages))
        if not held_out and self.settings.data.min_keys_per_trigger > 1:
            self.tables.add(word_grams(conversation_text(row.messages)), key, answer)

    def choose_distinct(self, texts: Texts) -> None:
        """Leave rows to train on without duplicates and repeated triggers; ``texts`` fetches prompts again."""
        similar = self.settings.data.near_duplicates
        clusters = self.sketches.clusters(similar) if self.sketches is not None else ()
        distinct(self.index, clusters, self.dropped)
        fewer = self.settings.data.min_keys_per_trigger
        self.dropped["trigger"] += drop_triggered(self.tables, self.index, texts, fewer)


def sample_texts(store: Store, filters: TrainableFilters) -> list[str]:
    """Prompts from all over the time that is looked at."""
    times = times_of_trainable(store, filters)
    if times is None:
        return []
    starts = dict.fromkeys(np.linspace(*times, SAMPLES, endpoint=False).astype(int).tolist())
    found: dict[str, str] = {}
    for start in starts:
        rows = islice(stream_trainable(store, start, ROWS_OF_EACH, filters), ROWS_OF_EACH)
        found |= {values["id"]: conversation_text(content.messages) for values, content in rows}
    return list(found.values())


def fetched(store: Store, wanted: Iterable[tuple[str, T]]) -> Iterator[tuple[T, Row]]:
    """Rows again by their ids, each with what came with its id, a few in memory at once; what is gone is left out."""
    left = iter(wanted)
    while some := dict(islice(left, FETCHED)):
        found = fetch_trainable(store, list(some))
        yield from ((about, row_of(*found[each])) for each, about in some.items() if each in found)


def row_of(values: dict[str, Any], content: Content) -> Row:
    """A row of the ledger."""
    confidence = values["confidence"]
    return Row(
        id=values["id"],
        key_id=values["key_id"] or "",
        reason=values["reason"],
        propensity=values["propensity"],
        messages=content.messages,
        parameters=content.parameters,
        answer=content.answer,
        logprobs=content.teacher_logprobs,
        score=values["feedback_score"],
        corrected=values["corrected"],
        answered=values["answered"],
        tags=values["tags"],
        model=values["model"],
        created_at=values["created_at"],
        confidence=values["score"] if confidence is None else confidence,
        agreement=values["agreement"],
    )
