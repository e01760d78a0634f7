"""A table of prompts with two models' scores and costs, read from files."""

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from router.evaluation.cells import number, prompt_text
from router.evaluation.layout import Columns, Layout, find_layout
from router.evaluation.metrics import Floats, Outcomes
from router.evaluation.reading import Row, TableError, files_of, read_rows

__all__ = ("PromptTable", "read_table", "read_training_table")

SAMPLE = 500
"""Rows from which the layout is told."""


@dataclass(frozen=True, eq=False)
class PromptTable:
    """Prompts, shape (n,), with what the weak and the strong model score and cost on them.

    `groups` is None for a table without. `dropped` counts rows that were left out, by what they lacked; `notes` are
    choices that were made for the caller, in words. `priced` is False where the table has no costs, and one strong
    call counts 1 and a weak one 0.
    """

    prompts: list[str]
    outcomes: Outcomes
    groups: list[str] | None
    columns: Columns
    weak: str
    strong: str
    priced: bool
    dropped: dict[str, int]
    notes: list[str]

    def take(self, rows: Sequence[int]) -> "PromptTable":
        """A table of some of the rows."""
        groups = self.groups and [self.groups[row] for row in rows]
        outcomes = self.outcomes.take(np.asarray(rows, dtype=np.int64))
        return replace(self, prompts=[self.prompts[row] for row in rows], groups=groups, outcomes=outcomes)


@dataclass
class _Collected:
    """Columns as they come in; NaN and "" where a cell has no value."""

    layout: Layout
    prompts: list[str] = field(default_factory=list[str])
    groups: list[str] = field(default_factory=list[str])
    numbers: "dict[str, array[float]]" = field(default_factory=dict[str, "array[float]"])

    def add(self, row: Row, file: str) -> None:
        self.prompts.append(prompt_text(row.get(self.layout.prompt)))
        group = self.layout.group
        value = file if group is None else row.get(group)
        self.groups.append("" if value is None else str(value))
        for name, column in self.numbers.items():
            column.append(number(row.get(name)))

    def column(self, name: str) -> Floats:
        return np.frombuffer(self.numbers[name])


def read_table(paths: Sequence[Path], named: Columns) -> PromptTable:
    """Read the files, and those of directories, as one table.

    Without a column for it, the group is the file's name where there are several files. Raises TableError, with a
    message that says what the table has, for one that lacks a column, is empty or has no complete row.
    """
    return _read(paths, lambda _: named)


def read_training_table(paths: Sequence[Path], tested: PromptTable) -> PromptTable:
    """The same of a table to train on: what was read of the tested one where there are such columns, else what is
    found. Raises TableError as `read_table` does.
    """
    return _read(paths, tested.columns.within)


def _read(paths: Sequence[Path], naming: Callable[[Collection[str]], Columns]) -> PromptTable:
    files = [file for path in paths for file in files_of(path)]
    rows = _rows(files)
    sample = list(islice(rows, SAMPLE))
    if not sample:
        raise TableError(f"{', '.join(map(str, paths))}: no rows")
    named = naming({column for _, row in sample for column in row})
    layout = find_layout([row for _, row in sample], named)
    wanted = {*layout.models, *layout.costs.values(), *filter(None, (named.weak_cost, named.strong_cost))}
    found = _Collected(layout, numbers={name: array("d") for name in sorted(wanted)})
    for file, row in chain(sample, rows):
        found.add(row, file.name.split(".")[0])
    return _table(found, named, grouped=layout.group is not None or len(files) > 1)


def _rows(files: Sequence[Path]) -> Iterator[tuple[Path, Row]]:
    return ((file, row) for file in files for row in read_rows(file))


def _table(found: _Collected, named: Columns, grouped: bool) -> PromptTable:
    notes: list[str] = []
    weak, strong = _pair(found, named, notes)
    scores = np.stack([found.column(weak), found.column(strong)])
    costs = _costs(found, (weak, strong), named)
    groups = found.groups if grouped else None
    lacks = {
        "prompt": np.array([not prompt.strip() for prompt in found.prompts]),
        "score": np.isnan(scores).any(axis=0),
        "cost": np.isnan(costs).any(axis=0) if costs is not None else np.zeros(scores.shape[1], dtype=bool),
        "group": np.array([not group for group in found.groups])
        if grouped
        else np.zeros(scores.shape[1], dtype=bool),
    }
    kept = np.flatnonzero(~np.any(list(lacks.values()), axis=0))
    if not kept.size:
        raise TableError(f"no row has a prompt and a score of both {weak!r} and {strong!r}")
    scores = _scaled(scores[:, kept], notes)
    spent = np.stack([np.zeros(kept.size), np.ones(kept.size)]) if costs is None else costs[:, kept]
    columns = Columns(found.layout.prompt, weak, strong, group=found.layout.group)
    groups = groups and _useful([groups[row] for row in kept], found.layout.group, named, notes)
    return PromptTable(
        [found.prompts[row] for row in kept],
        Outcomes(scores[0], scores[1], spent[0], spent[1]),
        groups,
        columns,
        weak,
        strong,
        priced=costs is not None,
        dropped={why: int(rows.sum()) for why, rows in lacks.items() if rows.any()},
        notes=notes,
    )


def _pair(found: _Collected, named: Columns, notes: list[str]) -> tuple[str, str]:
    """The weak and the strong model: as named, or the cheapest and the best."""
    models = found.layout.models
    quality = {model: float(np.nanmean(_or_worst(found.column(model)))) for model in models}
    price = {
        model: float(np.nanmean(found.column(column)))
        for model, column in found.layout.costs.items()
        if not np.isnan(found.column(column)).all()
    }
    strong = named.strong or max((model for model in models if model != named.weak), key=quality.__getitem__)
    rest = [model for model in models if model != strong]
    by = price if all(model in price for model in rest) else quality
    weak = named.weak or min(rest, key=by.__getitem__)
    if not (named.weak and named.strong):
        chosen = "cheapest" if by is price else "worst"
        how = "the better of two" if len(models) == 2 else f"the best of {len(models)}, beside the {chosen}"
        notes.append(f"took {weak!r} as weak and {strong!r} as strong ({how})")
    return weak, strong


def _or_worst(scores: Floats) -> Floats:
    return scores if np.isfinite(scores).any() else np.full(1, -np.inf)


def _costs(found: _Collected, pair: tuple[str, str], named: Columns) -> Floats | None:
    """Costs of both models, shape (2, rows); None where neither is known."""
    size = len(found.prompts)
    columns = [
        _cost(found, given or found.layout.costs.get(model), size)
        for model, given in zip(pair, (named.weak_cost, named.strong_cost), strict=True)
    ]
    if all(column is None for column in columns):
        return None
    for model, column, option in zip(pair, columns, ("--weak-cost", "--strong-cost"), strict=True):
        if column is None:
            raise TableError(f"no cost of {model!r} in the table; give it with {option}")
    return np.stack([column for column in columns if column is not None])


def _cost(found: _Collected, given: str | None, size: int) -> Floats | None:
    if given is None:
        return None
    column = found.column(given)
    if not np.isnan(column).all():
        return column
    value = number(given)
    if np.isnan(value) or value < 0:
        raise TableError(f"the cost {given!r} is neither a column of numbers nor a number of at least 0")
    return np.full(size, value)


def _scaled(scores: Floats, notes: list[str]) -> Floats:
    low, high = float(scores.min()), float(scores.max())
    if low >= 0.0 and high <= 1.0:
        return scores
    notes.append(f"scaled scores from {low:g}..{high:g} to 0..1")
    return (scores - low) / ((high - low) or 1.0)


def _useful(groups: list[str], column: str | None, named: Columns, notes: list[str]) -> list[str] | None:
    """The groups, unless there is only one, or a column that nobody named has one for nearly every row."""
    sizes = Counter(groups)
    if len(sizes) > 1 and (named.group or 2 * len(sizes) <= len(groups)):
        if not named.group:
            notes.append(f"took {len(sizes)} groups from " + (f"column {column!r}" if column else "the files' names"))
        return groups
    notes.append(f"no groups: {len(sizes)} different in {len(groups)} rows")
    return None
