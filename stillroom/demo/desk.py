"""Reading a labelled set (text, label) from CSV, JSON lines or CLINC150's JSON, split before anything else."""

import csv
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

__all__ = ("OUT_OF_SCOPE", "Desk", "DeskError", "Request", "load_desk", "open_desk", "own_desk")

OUT_OF_SCOPE: Final = ("other", "oos", "out_of_scope")
SPLITS: Final = ("train", "validation", "test")
MIN_LABELS: Final = 2


class DeskError(ValueError):
    """A set that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """One customer's request with its gold label. Paraphrases share a group, and a group is never split."""

    text: str
    label: str
    group: str
    slice: str = ""
    """``old`` or ``new`` where traffic shifts: whether the intent is there from the beginning."""

    @property
    def in_scope(self) -> bool:
        """Whether the desk has an intent for it."""
        return self.label not in OUT_OF_SCOPE


@dataclass(frozen=True, slots=True)
class Desk:
    """A set in its three parts."""

    train: list[Request]
    validation: list[Request]
    test: list[Request]

    def labels(self) -> list[str]:
        """All labels, sorted."""
        return sorted({request.label for request in self.train})

    def limited(self, labels: int, seed: int = 0) -> "Desk":
        """A smaller desk: so many of the intents at random, and at most one out-of-scope request to ten of them."""
        intents = sorted({request.label for request in self.train if request.in_scope})
        kept = set(random.Random(seed).sample(intents, min(labels, len(intents))))  # noqa: S311 a choice, not a secret

        def part(rows: list[Request]) -> list[Request]:
            out_of_scope = sum(row.label in kept for row in rows) // 10
            chosen: list[Request] = []
            for row in rows:
                if row.label in kept:
                    chosen.append(row)
                elif not row.in_scope and out_of_scope:
                    out_of_scope -= 1
                    chosen.append(row)
            return chosen

        return Desk(part(self.train), part(self.validation), part(self.test))

    def shifting(self, first: int, seed: int = 0) -> "Desk":
        """The desk as one whose traffic shifts: half of the intents come up only after ``first`` requests, and make
        up as much of what follows as the old ones. Out-of-scope requests are old.

        Raises `DeskError` where the old half has not so many training requests.
        """
        intents = sorted({request.label for request in self.train if request.in_scope})
        new = set(random.Random(seed).sample(intents, len(intents) // 2))  # noqa: S311 a choice, not a secret

        def parted(rows: list[Request]) -> tuple[list[Request], list[Request]]:
            named = [replace(row, slice="new" if row.label in new else "old") for row in rows]
            return [row for row in named if row.slice == "old"], [row for row in named if row.slice == "new"]

        def mixed(rows: list[Request]) -> list[Request]:
            return [row for pair in zip(*parted(rows), strict=False) for row in pair]

        old, later = parted(self.train)
        if len(old) <= first:
            raise DeskError(
                f"the old half of the intents has {len(old)} training requests; more than {first} are needed"
            )
        after = [row for pair in zip(old[first:], later, strict=False) for row in pair]
        return Desk(old[:first] + after, mixed(self.validation), mixed(self.test))


def own_desk() -> Desk:
    """The set that comes with the project: a parcel carrier's support desk."""
    folder = Path(__file__).parent / "data"
    return Desk(*(_csv_rows(folder / f"{split}.csv") for split in SPLITS))


def open_desk(path: Path | None, labels: int = 0) -> Desk:
    """The set at a path, or our own; ``labels`` above 0 keeps so many of its intents. Raises `DeskError`."""
    desk = load_desk(path) if path else own_desk()
    return desk.limited(labels) if labels else desk


def load_desk(path: Path, seed: int = 0) -> Desk:
    """A set of one's own. A file that is not split already is split here, by group or by text.

    Raises `DeskError`.
    """
    try:
        if path.suffix == ".json":
            return _checked(_clinc(json.loads(path.read_text("utf-8")), seed), path)
        rows = _jsonl_rows(path) if path.suffix == ".jsonl" else _csv_rows(path)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DeskError(f"{path} cannot be read: {error}") from error
    return _checked(_split(rows, seed), path)


def _csv_rows(path: Path) -> list[Request]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"text", "label"} <= set(reader.fieldnames or ()):
            raise DeskError(f"{path} needs the columns text and label; it has {', '.join(reader.fieldnames or ())}")
        return [_request(row, f"{path}:{number}") for number, row in enumerate(reader, 2)]


def _jsonl_rows(path: Path) -> list[Request]:
    lines = path.read_text("utf-8").split("\n")
    return [_request(_json(line, f"{path}:{n}"), f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def _json(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DeskError(f"{where}: {error}") from error


def _request(row: Any, where: str) -> Request:
    text, label = (row.get("text"), row.get("label")) if isinstance(row, dict) else (None, None)
    if not isinstance(text, str) or not isinstance(label, str) or not text.strip() or not label.strip():
        raise DeskError(f"{where}: a row needs a text and a label")
    return Request(text.strip(), label.strip(), str(row.get("group") or _key(text)))


def _key(text: str) -> str:
    return hashlib.sha256(" ".join(sorted(set(text.casefold().split()))).encode()).hexdigest()[:16]


def _clinc(data: Any, seed: int) -> Desk:
    """CLINC150's ``data_full.json``: its own splits, out-of-scope requests mixed in."""
    if not isinstance(data, dict) or not {"train", "val", "test"} <= set(data):
        raise DeskError("the JSON file is not CLINC150's: it needs train, val and test")
    parts: list[list[Request]] = []
    for split, out_of_scope in (("train", "oos_train"), ("val", "oos_val"), ("test", "oos_test")):
        rows = [
            _request(dict(zip(("text", "label"), row, strict=False)), f"{name}[{number}]")
            for name in (split, out_of_scope)
            for number, row in enumerate(data.get(name, ()))
        ]
        random.Random(seed).shuffle(rows)  # noqa: S311 a split, not a secret
        parts.append(rows)
    return Desk(*parts)


def _split(rows: Iterable[Request], seed: int) -> Desk:
    """70 / 10 / 20 per label, whole groups. One with requests of several labels counts for the first of them."""
    groups: dict[str, dict[str, list[Request]]] = defaultdict(lambda: defaultdict(list))
    home: dict[str, str] = {}
    for row in rows:
        groups[home.setdefault(row.group, row.label)][row.group].append(row)
    parts: dict[str, list[Request]] = {split: [] for split in SPLITS}
    shuffler = random.Random(seed)  # noqa: S311
    for label in sorted(groups):
        members = [groups[label][name] for name in sorted(groups[label])]
        shuffler.shuffle(members)
        total, taken = sum(map(len, members)), 0
        for group in members:
            split = "test" if taken < 0.2 * total else "validation" if taken < 0.3 * total else "train"
            parts[split] += group
            taken += len(group)
    for part in parts.values():
        shuffler.shuffle(part)
    return Desk(parts["train"], parts["validation"], parts["test"])


def _checked(desk: Desk, path: Path) -> Desk:
    if len(desk.labels()) < MIN_LABELS or not desk.validation or not desk.test:
        raise DeskError(f"{path} is too small: it needs some requests of at least {MIN_LABELS} labels")
    return desk
