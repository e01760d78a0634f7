"""Which columns of a table hold what: named by the caller, or known from the layouts that projects publish.

RouteLLM's tables have `prompt` and a column per model that holds True or False, GSM8K's also `<model>_response`.
RouterBench's have `sample_id`, `prompt`, `eval_name`, and for each model its score, `<model>|model_response` and
`<model>|total_cost`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from router.evaluation.cells import number, prompt_text
from router.evaluation.reading import Row, TableError

__all__ = ("Columns", "Layout", "find_layout")

PROMPTS: Final = ("prompt", "question", "query", "instruction", "input", "text", "messages", "turns", "prompts")
GROUPS: Final = ("eval_name", "subject", "category", "domain", "topic", "dataset", "task", "benchmark", "source")
COSTS: Final = ("|total_cost", "_total_cost", "|cost", "_cost")
RESPONSES: Final = ("|model_response", "_response")
NO_MODEL: Final = frozenset(
    (
        "id",
        "idx",
        "index",
        "label",
        "answer",
        "target",
        "gold",
        "seed",
        "fold",
        "difficulty",
        "level",
        "length",
        "turn",
    )
)
NO_MODEL_ENDS: Final = (*COSTS, *RESPONSES, "_id", "_index", "_tokens", "_latency", "_time", "_length", "_at")


@dataclass(frozen=True, slots=True)
class Columns:
    """What the caller names; None for what is to be found. A cost is a column or a number for every prompt."""

    prompt: str | None = None
    weak: str | None = None
    strong: str | None = None
    weak_cost: str | None = None
    strong_cost: str | None = None
    group: str | None = None

    def within(self, present: Collection[str]) -> "Columns":
        """Those that a table with such columns has, at no cost, which only a test counts."""
        prompt, weak, strong, group = (
            column if column in present else None for column in (self.prompt, self.weak, self.strong, self.group)
        )
        return Columns(prompt, weak, strong, weak_cost="0", strong_cost="1", group=group)


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns to read: the models' scores, and for some models the column of its cost."""

    prompt: str
    models: tuple[str, ...]
    costs: dict[str, str]
    group: str | None


def find_layout(sample: Sequence[Row], named: Columns) -> Layout:
    """The layout of a table that begins with such rows. Raises TableError that lists the columns there are."""
    present = list(dict.fromkeys(column for row in sample for column in row))
    for column in (named.prompt, named.weak, named.strong, named.group):
        if column is not None and column not in present:
            raise TableError(f"no column {column!r}; there are {_listed(present)}")
    prompt = named.prompt or _first(present, PROMPTS)
    if prompt is None or not any(prompt_text(row.get(prompt)) for row in sample):
        raise TableError(f"no column of prompts found; name it with --prompt; there are {_listed(present)}")
    costs = {column: found for column in present if (found := _beside(column, present, COSTS))}
    group = named.group or _first([column for column in present if column != prompt], GROUPS)
    taken = {prompt, group, named.weak_cost, named.strong_cost, *costs.values()}
    models = _models(sample, [column for column in present if column not in taken], named)
    if named.weak is not None and named.weak == named.strong:
        raise TableError(f"{named.weak!r} is named as the weak and as the strong model")
    if len(models) < 2:
        raise TableError(
            f"no two models' scores found; name them with --weak and --strong; there are {_listed(present)}"
        )
    return Layout(prompt, models, {model: costs[model] for model in models if model in costs}, group)


def _models(sample: Sequence[Row], columns: Sequence[str], named: Columns) -> tuple[str, ...]:
    """The named pair, or else the columns that most look like models' scores."""
    if named.weak and named.strong:
        return named.weak, named.strong
    scores = [column for column in columns if _may_be_model(column) and _holds_numbers(sample, column)]
    # A column with a cost or an answer of its own is a model's; one of zeros and ones is likelier than one of sizes.
    tests = (
        lambda column: _beside(column, list(sample[0]), COSTS) is not None,
        lambda column: _beside(column, list(sample[0]), RESPONSES) is not None,
        lambda column: _within_one(sample, column),
    )
    wanted = [column for column in (named.weak, named.strong) if column]
    for test in tests:
        found = list(dict.fromkeys([*wanted, *filter(test, scores)]))
        if len(found) > 1:
            return tuple(found)
    return tuple(dict.fromkeys([*wanted, *scores]))


def _may_be_model(column: str) -> bool:
    name = column.strip().lower()
    return bool(name) and name not in NO_MODEL and not name.startswith("unnamed") and not name.endswith(NO_MODEL_ENDS)


def _numbers(sample: Sequence[Row], column: str) -> list[float]:
    return [number(row.get(column)) for row in sample if row.get(column) not in (None, "")]


def _holds_numbers(sample: Sequence[Row], column: str) -> bool:
    found = np.array(_numbers(sample, column))
    return bool(found.size) and bool(np.isfinite(found).mean() > 0.5)


def _within_one(sample: Sequence[Row], column: str) -> bool:
    found = np.array(_numbers(sample, column))
    return bool(np.nanmin(found) >= 0.0 and np.nanmax(found) <= 1.0)


def _beside(column: str, present: Sequence[str], endings: Iterable[str]) -> str | None:
    return next((column + ending for ending in endings if column + ending in present), None)


def _first(present: Sequence[str], names: Sequence[str]) -> str | None:
    by_name = {column.strip().lower(): column for column in reversed(present)}
    return next((by_name[name] for name in names if name in by_name), None)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns)) or "none"
