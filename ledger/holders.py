"""Who holds a copy of content: datasets, the files of their folders, and the releases trained on them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from ledger import datasets, schema
from ledger.jobs import FINAL_STATES
from ledger.store import Store

__all__ = ("Holders", "HoldingDataset", "HoldingRelease", "flagged", "holders", "purge")

DATA_FILES: Final = ("*.parquet", "*.jsonl")
"""What of a dataset's folder has content in it; its manifest has not."""


class HoldingDataset(msgspec.Struct, kw_only=True):
    """A dataset with erased content in it. ``flagged_at`` (ms) is None in a dry run that would flag it."""

    id: str
    job_id: str | None
    folder: str
    flagged_at: int | None
    files: list[str]
    """Those that are still there."""


class HoldingRelease(msgspec.Struct, kw_only=True):
    """A release that learned from it, by itself (``trained``) or through a release before it (``descends``)."""

    id: str
    state: str
    folder: str
    how: str
    of: str
    """The dataset's id, or the earlier release's."""


class Holders(msgspec.Struct, kw_only=True):
    """All of them, newest dataset and oldest release first."""

    datasets: list[HoldingDataset]
    releases: list[HoldingRelease]


def holders(store: Store, dataset_ids: Sequence[str]) -> Holders:
    """These datasets, and the releases that were trained on them or go on from one that was."""
    found = [held for dataset_id in dataset_ids if (held := datasets.get(store, dataset_id)) is not None]
    return Holders(datasets=[_holding(held) for held in found], releases=_releases(store, found))


def flagged(store: Store) -> Holders:
    """Every dataset that was ever flagged, and the releases that learned from them."""
    table = schema.datasets
    statement = sa.select(table.c.id).where(table.c.flagged_at.is_not(None)).order_by(table.c.created_at.desc())
    with store.read() as connection:
        return holders(store, connection.execute(statement).scalars().all())


def purge(store: Store, held: Iterable[HoldingDataset]) -> tuple[list[str], list[str]]:
    """Delete the files of datasets that no job works with or waits on.

    Returns the files deleted, and the ids of the datasets that were left alone.
    """
    deleted: list[str] = []
    left: list[str] = []
    for dataset in held:
        if _in_use(store, dataset.job_id):
            left.append(dataset.id)
            continue
        for file in dataset.files:
            Path(file).unlink(missing_ok=True)
            deleted.append(file)
    return deleted, left


def _holding(dataset: datasets.Dataset) -> HoldingDataset:
    folder = Path(dataset.folder)
    files = sorted(str(path) for pattern in DATA_FILES for path in folder.rglob(pattern))
    return HoldingDataset(
        id=dataset.id, job_id=dataset.job_id, folder=dataset.folder, flagged_at=dataset.flagged_at, files=files
    )


def _releases(store: Store, held: Sequence[datasets.Dataset]) -> list[HoldingRelease]:
    """One pass, oldest first: a release is younger than the one that it goes on from."""
    by_dataset = {dataset.id: dataset.id for dataset in held}
    by_job = {dataset.job_id: dataset.id for dataset in held if dataset.job_id is not None}
    table = schema.releases
    found: dict[str, HoldingRelease] = {}
    with store.read() as connection:
        for row in connection.execute(sa.select(table).order_by(table.c.created_at, table.c.id)):
            trained = by_dataset.get(row.dataset_id) or by_job.get(row.job_id)
            if trained is None and row.parent_id not in found:
                continue
            found[row.id] = HoldingRelease(
                id=row.id,
                state=row.state,
                folder=row.folder,
                how="trained" if trained else "descends",
                of=trained or row.parent_id,
            )
    return list(found.values())


def _in_use(store: Store, job_id: str | None) -> bool:
    if job_id is None:
        return False
    table = schema.jobs
    statement = sa.select(sa.literal(1)).where(table.c.id == job_id, table.c.state.not_in(FINAL_STATES))
    with store.read() as connection:
        return connection.execute(statement).scalar() is not None
