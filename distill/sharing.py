"""Puts a release where other machines find it: at ``distill.artifacts``."""

import asyncio
from pathlib import Path

from distill.context import JobContext, JobFailed
from ledger.artifact_store import ARTIFACT, push
from ledger.artifacts import ArtifactError
from ledger.releases import Release
from ledger.retention import amend_summary

__all__ = ("share",)


async def share(context: JobContext, release: Release) -> None:
    """Push a release's folder as it is now, and note its URL; nothing where no URL is set. Raises `JobFailed`."""
    if context.distill.artifacts is None:
        return
    try:
        url = await asyncio.to_thread(push, Path(release.folder), context.distill.artifacts)
    except (ArtifactError, OSError) as error:
        raise JobFailed(f"the release cannot be put at distill.artifacts: {error}") from error
    await asyncio.to_thread(amend_summary, context.store, release.id, {ARTIFACT: url})
