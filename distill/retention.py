"""Deletes the files of releases that are no longer needed, here and in the artifact store."""

import asyncio
import shutil
from pathlib import Path

import structlog

from distill.context import JobContext
from ledger import artifact_store, retention
from ledger.artifact_store import ARTIFACT
from ledger.artifacts import ArtifactError
from ledger.releases import Release
from ledger.store import Store

__all__ = ("prune", "prune_as_set")

log = structlog.get_logger(__name__)


def prune(store: Store, keep: int, actor: str) -> list[Release]:
    """Delete the files of what `ledger.retention.expendable` names; the rows stay, marked. Returns those pruned.

    The mark comes first, so that a release without its files is never promoted, however this ends.
    """
    pruned = [each for each in retention.expendable(store, keep) if retention.mark_pruned(store, each.id, actor)]
    for release in pruned:
        shutil.rmtree(Path(release.folder), ignore_errors=True)
        url: str | None = release.summary.get(ARTIFACT)
        try:
            if url is not None:
                artifact_store.delete(url)
        except ArtifactError as error:
            log.warning("artifact_not_deleted", release=release.id, error=str(error))
    return pruned


async def prune_as_set(context: JobContext) -> None:
    """`prune` by the settings, as one of the worker's passes."""
    await asyncio.to_thread(prune, context.store, context.distill.keep_releases, f"worker:{context.owner}")
