"""From the ledger to a dataset: which answers are taken, what is held out, and the student's tokens of them.

The ledger is read once for what is known of each row (`distill.data.gathering`), rows are chosen by that
(`distill.data.choice`), and the content of the chosen ones is read again and written (`distill.data.writing`), so
that memory does not grow with what is said in the ledger. Rows are split by a hash of the conversation's first user
message: a request held out once stays held out in every later dataset.

A system prompt is a part of the prompt, and so are tools' secrets in it: no loss is taken on a prompt, so that it is
read and not learned by heart; requests with tools are not taken at all.
"""

import contextlib
import itertools
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec

from distill.data.choice import Chosen, choose, held_out
from distill.data.gathering import SAY_EVERY, Gathering, Progress, fetched, row_of, sample_texts
from distill.data.index import RowIndex
from distill.data.near import Sketches
from distill.data.rows import (
    DatasetError,
    HeldOut,
    Manifest,
    Messages,
    Row,
    conversation_text,
    is_held_out,
    render,
)
from distill.data.weights import effective_size
from distill.data.writing import Written, content_hash, write_held_out, write_train, write_whole
from distill.local_teacher import local_tokens
from distill.settings import DistillSettings
from distill.target_scan import SAMPLE, scan
from ledger import datasets
from ledger.datasets import Dataset
from ledger.observed import least_propensity
from ledger.store import Store, now_ms
from ledger.trainable import gone_from, stream_trainable

__all__ = (
    "Building",
    "DatasetError",
    "HeldOut",
    "Manifest",
    "Plan",
    "Row",
    "build_dataset",
    "check_enough",
    "dataset_id_of",
    "is_held_out",
    "plan_dataset",
    "read_held_out",
    "render",
    "write_whole",
)

QUERY: Final = ("data", "holdout_share", "max_examples", "max_share_per_key")
FILES: Final = ("train.parquet", "held_out.jsonl")


def _say_nothing(_what: str, _done: int, _of: int) -> None:
    """For who does not watch."""


def dataset_id_of(job_id: str) -> str:
    """The id of a job's dataset, which it makes again under the same one when it is taken up again."""
    return f"d-{job_id}"


@dataclass(frozen=True)
class Building:
    """What a dataset is built from. ``explore_rate`` is the propensity to thin by before any request was explored."""

    store: Store
    settings: DistillSettings
    explore_rate: float
    tokenizer: Any
    job_id: str | None = None
    on_progress: Progress = _say_nothing
    pii_map: Path | None = None
    """A file to keep what the placeholders stand for, for its owner only; unset keeps it nowhere."""
    now: int = field(default_factory=now_ms)

    @cached_property
    def dataset_id(self) -> str:
        """The job's own, else a new one."""
        new = f"d{time.strftime('%Y%m%d', time.gmtime())}-{secrets.token_hex(3)}"
        return dataset_id_of(self.job_id) if self.job_id else new


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rows a dataset has, before any of it is written."""

    index: RowIndex
    chosen: Chosen
    dropped: dict[str, int]
    """Rows that are not taken, by reason."""


@contextlib.contextmanager
def plan_dataset(building: Building) -> Generator[Plan]:
    """Read the ledger and choose, writing nothing but what goes at the end."""
    with RowIndex() as index:
        dropped = _gather(building, index)
        chosen = choose(index, building.settings, _last_dataset_at(building), dropped)
        building.on_progress("choosing", len(index), len(index))
        yield Plan(index, chosen, {why: n for why, n in sorted(dropped.items()) if n})


def _gather(building: Building, index: RowIndex) -> Counter[str]:
    """Put the rows that may be taken into the index, without duplicates; returns how many are not, and why."""
    store, settings = building.store, building.settings
    filters = settings.data.filters(building.now)
    with contextlib.ExitStack() as stack:
        sketches = None
        if settings.data.near_duplicates < 1:
            sketches = stack.enter_context(Sketches(sample_texts(store, filters)))
        gathering = Gathering(
            settings,
            least_propensity(store) or building.explore_rate,
            lambda messages: _renders(messages, building.tokenizer),
            index,
            sketches,
        )
        rows = (row_of(values, content) for values, content in stream_trainable(store, filters=filters))
        gathering.take_all(rows, building.on_progress)
        building.on_progress("choosing", 0, len(index))
        gathering.choose_distinct(
            lambda wanted: ((about, conversation_text(row.messages)) for about, row in fetched(store, wanted))
        )
    return gathering.dropped


def build_dataset(building: Building, folder: Path) -> Manifest:
    """Write ``train.parquet``, ``held_out.jsonl`` and ``manifest.json`` (last) into the folder, and register them.

    Raises `DatasetError` when fewer than ``settings.min_examples`` rows are left to train on, or none to judge by, or
    when content was erased meanwhile.
    """
    with plan_dataset(building) as plan:
        check_enough(plan, building.settings)
        folder.mkdir(parents=True, exist_ok=True)
        return _write(building, plan, folder)


def _write(building: Building, plan: Plan, folder: Path) -> Manifest:
    index, chosen = plan.index, plan.chosen
    index.execute("create temp table written(number integer primary key)")

    def content(wanted: Iterable[tuple[str, tuple[int, float]]]) -> Iterator[tuple[Row, float]]:
        for (number, weight), row in fetched(building.store, wanted):
            index.execute("insert into written values (:number)", number=number)
            yield row, weight

    weights = zip(map(int, chosen.train), map(float, chosen.weights), strict=True)
    to_train = ((index.id_of(number), (number, weight)) for number, weight in weights)
    to_hold = ((request, (number, 1.0)) for request, number in held_out(index))
    local = local_tokens(building.settings.training.teacher_weights, building.tokenizer)
    counting = _counting(building, chosen)
    written = Written(building.settings.data, building.tokenizer, local, building.pii_map, counting)
    some = chosen.train[:: math.ceil(chosen.train.size / SAMPLE)].tolist()
    sample = fetched(building.store, ((index.id_of(number), number) for number in some))
    written.capabilities = scan(((row.answer, row.logprobs) for _, row in sample), building.tokenizer, local)[0]
    train = write_train(folder / FILES[0], content(to_train), written)
    held = write_held_out(folder / FILES[1], (row for row, _ in content(to_hold)), written)
    gone = chosen.train.size + chosen.held_out - train - held
    manifest = Manifest(
        created_at=building.now,
        train=train,
        held_out=held,
        dropped=plan.dropped | ({"gone": gone} if gone else {}),
        aligned_share=written.targets.aligned_share,
        keys=dict(written.keys),
        content_hash=content_hash(*(folder / name for name in FILES)),
        corrected=written.corrected,
        id=building.dataset_id,
        query=_as_json({name: getattr(building.settings, name) for name in QUERY}),
        effective_size=effective_size(chosen.weights),
        replayed=chosen.replayed,
        redacted=dict(written.redacted),
        targets=written.targets,
        teacher=written.capabilities,
    )
    members = index.execute("select id, held_out from written join rows using (number) order by number")
    _register(building, manifest, folder, ((request, bool(side)) for request, side in members))
    write_whole(folder / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def check_enough(plan: Plan, settings: DistillSettings) -> None:
    """Raise `DatasetError` where there is too little to train on, or nothing to judge by."""
    rows, dropped = plan.chosen.train.size, f"dropped: {plan.dropped or 'none'}"
    if rows < settings.min_examples:
        raise DatasetError(
            f"{rows} teacher answers can be trained on, {settings.min_examples} are needed "
            f"(distill.min_examples); {dropped}"
        )
    if not plan.chosen.held_out:
        raise DatasetError(
            f"no teacher answer is held out to judge a student by (distill.holdout_share = "
            f"{settings.holdout_share}; requests pinned to the teacher do not count); {dropped}"
        )


def read_held_out(folder: Path) -> list[HeldOut]:
    """The held-out requests of a dataset."""
    decoder = msgspec.json.Decoder(HeldOut)
    return [decoder.decode(line) for line in (folder / FILES[1]).read_bytes().splitlines()]


def _register(building: Building, manifest: Manifest, folder: Path, members: Iterator[tuple[str, bool]]) -> None:
    """Make the dataset known, so that who erases content finds it there.

    What was erased before that is not flagged: then the files go again.
    """
    store = building.store
    about = msgspec.to_builtins(manifest)
    registered = Dataset(
        manifest.id, manifest.created_at, building.job_id, str(folder.resolve()), manifest.content_hash, about
    )
    datasets.add(store, registered, members)
    gone = gone_from(store, manifest.id)
    if gone:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        raise DatasetError(f"the content of {gone} requests was erased while a dataset was made of it; make it again")


def _last_dataset_at(building: Building) -> int | None:
    """When the newest dataset was made that is not this one, which a job that is taken up again makes twice."""
    made = datasets.list_datasets(building.store, 2)
    return next((each.created_at for each in made if each.id != building.dataset_id), None)


def _counting(building: Building, chosen: Chosen) -> Callable[[], None]:
    """Says how many rows are written."""
    done, total = itertools.count(1), chosen.train.size + chosen.held_out

    def count() -> None:
        number = next(done)
        if number % SAY_EVERY == 0 or number == total:
            building.on_progress("writing", number, total)

    return count


def _as_json(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _renders(messages: Messages, tokenizer: Any) -> bool:
    from jinja2 import TemplateError

    try:
        return bool(render(messages, tokenizer))
    except (TemplateError, TypeError):
        return False
