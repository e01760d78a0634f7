"""Rows for the tests of datasets, and the choice among them without a ledger."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from distill.data.choice import choose, held_out
from distill.data.gathering import Gathering
from distill.data.index import RowIndex
from distill.data.near import Sketches
from distill.data.rows import Row, conversation_text
from distill.data.settings import DataSettings
from distill.settings import DistillSettings
from ledger.records import Content, RequestRecord

EXACT = DataSettings(near_duplicates=1, min_keys_per_trigger=1)
"""For tests about something else: their prompts are much alike."""
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Split:
    train: dict[str, Row]
    held_out: dict[str, Row]
    dropped: dict[str, int]
    weights: dict[str, float]


def split(
    rows: Iterable[Row],
    settings: DistillSettings,
    least: float = 0.1,
    renders: Callable[[Any], bool] = lambda _messages: True,
    last_dataset_at: int | None = None,
) -> Split:
    """Choose among rows, given oldest first, as a build does; what is chosen by id, oldest first."""
    rows = list(rows)
    data, by_id = settings.data, {row.id: row for row in rows}
    with RowIndex() as index, Sketches([conversation_text(row.messages) for row in rows[:2_000]]) as sketches:
        gathering = Gathering(settings, least, renders, index, sketches if data.near_duplicates < 1 else None)
        gathering.take_all(rows, lambda *_: None)
        gathering.choose_distinct(
            lambda wanted: ((about, conversation_text(by_id[each].messages)) for each, about in wanted)
        )
        chosen = choose(index, settings, last_dataset_at, gathering.dropped)
        ids = [index.id_of(number) for number in chosen.train.tolist()]
        held = [each for each, _ in held_out(index)]
    return Split(
        {each: by_id[each] for each in ids},
        {each: by_id[each] for each in held},
        {why: n for why, n in gathering.dropped.items() if n},
        dict(zip(ids, chosen.weights.tolist(), strict=True)),
    )


def ask(text: Any, *more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Sort the request."}, {"role": "user", "content": text}, *more]


def row(text: str, answer: str = "lost", **changes: Any) -> Row:
    values = {
        "id": f"req_{next(NUMBERS)}",
        "key_id": "key_1",
        "reason": "no_release",
        "propensity": 1.0,
        "messages": ask(text),
        "parameters": {},
        "answer": answer,
    }
    return Row(**(values | changes))


def record(text: Any, answer: str, **changes: Any) -> RequestRecord:
    number = next(NUMBERS)
    content = {"messages": ask(text), "parameters": {"temperature": 0}, "answer": answer}
    content |= {name: changes.pop(name) for name in ("messages", "parameters", "teacher_logprobs") if name in changes}
    values = {
        "id": f"req_{number}",
        "created_at": 1_000 + number,
        "key_id": "key_1",
        "route": "teacher",
        "reason": "no_release",
        "finish_reason": "stop",
        "content": Content(**content),
    }
    return RequestRecord(**(values | changes))
