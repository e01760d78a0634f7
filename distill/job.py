"""One re-distillation from beginning to end: build, train, evaluate, judge, release.

Every stage leaves its result in the job's folder and is skipped when that is there: a job whose worker died goes on
with the next worker that claims it.
"""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec

from distill import dataset, release
from distill.capabilities import NOT_ALLOWED
from distill.child import run_trainer
from distill.context import JobContext, JobFailed
from distill.dataset import Manifest
from distill.evaluation import evaluate_candidate, golden_prompts
from distill.going_live import go_live
from distill.sharing import share
from ledger import releases
from ledger.artifacts import folder_hash
from ledger.jobs import Job
from ledger.releases import Release
from ledger.store import now_ms
from serving.weights import resolve_weights

__all__ = ("JobContext", "JobFailed", "drop_scratch", "run_job")

SETTLED: Final = {"live": "live", "retired": "live", "rejected": "rejected", "rolled_back": "rolled_back"}
"""How a job has ended whose release is no longer a candidate."""


async def run_job(context: JobContext, job: Job) -> str:
    """Run the job that this worker holds; returns the state it ended in. Raises `JobFailed` with the cause."""
    if not context.terms_allow_training:
        raise JobFailed(NOT_ALLOWED)
    if context.student.base_url is not None:
        raise JobFailed(
            "student.base_url is set, so nothing serves a candidate to evaluate it: unset it, so that Stillroom "
            "starts the students itself"
        )
    golden_prompts(context)  # a file that cannot be read fails the job now, and not after its training
    champion = await asyncio.to_thread(releases.live, context.store)
    source = await _source(context, champion)
    await context.enter(job, "building")
    manifest = await asyncio.to_thread(_build, context, job, source)
    context.on_progress("dataset", msgspec.to_builtins(manifest))
    await context.enter(job, "training")
    candidate = await _train(context, job, source, champion)
    if candidate.state in SETTLED:
        # the worker before this one died between its verdict and its note of it
        await context.enter(job, SETTLED[candidate.state], release_id=candidate.id)
        return SETTLED[candidate.state]
    await context.enter(job, "evaluating", release_id=candidate.id)
    await share(context, candidate)  # for those who serve it while it is evaluated
    verdict = await evaluate_candidate(context, job, candidate, champion, manifest)
    await share(context, candidate)
    if not verdict.passed:
        await asyncio.to_thread(releases.reject, context.store, candidate.id, "gate", verdict.why_not())
        await context.enter(job, "rejected", error=verdict.why_not())
        return "rejected"
    if context.distill.approval == "manual":
        await context.enter(job, "awaiting_approval")
        return "awaiting_approval"
    return await go_live(context, job, candidate.id)


async def _source(context: JobContext, champion: Release | None) -> Path:
    """The weights to begin from. The champion's layers were chosen already."""
    if champion is not None and context.distill.start_from == "champion":
        return Path(champion.folder) / "student"
    return await asyncio.to_thread(resolve_weights, context.student.weights, context.home / "models")


def _build(context: JobContext, job: Job, source: Path) -> Manifest:
    folder = context.folder(job) / "dataset"
    written = folder / "manifest.json"
    if written.exists():
        return msgspec.json.decode(written.read_bytes(), type=Manifest)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)

    def progress(what: str, done: int, of: int) -> None:
        context.on_progress("dataset_progress", {"what": what, "done": done, "of": of})

    building = dataset.Building(
        context.store, context.distill, context.router.explore_share, tokenizer, job.id, progress
    )
    return dataset.build_dataset(building, folder)


async def _train(context: JobContext, job: Job, source: Path, champion: Release | None) -> Release:
    """Train in a child process and register what comes out as a candidate."""
    folder = context.folder(job)
    config_file = folder / "train.json"
    if not config_file.exists():
        dataset.write_whole(config_file, msgspec.json.encode(_train_config(context, folder, source, champion)))
    config = json.loads(config_file.read_bytes())
    await run_trainer(context.store, context.owner, job, folder, context.on_progress)
    await asyncio.to_thread(drop_scratch, folder)
    release_folder = Path(config["output"]).parent
    known = {release.id: release for release in await asyncio.to_thread(releases.list_releases, context.store)}
    if release_folder.name in known:
        return known[release_folder.name]
    candidate = Release(
        id=release_folder.name,
        state="candidate",
        created_at=now_ms(),
        promoted_at=None,
        parent_id=champion.id if champion else None,
        job_id=job.id,
        folder=str(release_folder),
        content_hash=await asyncio.to_thread(folder_hash, release_folder / "student"),
        summary={},
        dataset_id=dataset.dataset_id_of(job.id),
    )
    await asyncio.to_thread(releases.add, context.store, candidate)
    return candidate


def drop_scratch(folder: Path) -> None:
    """Delete what only an unfinished training needs: its checkpoints are several times the model's size."""
    for name in ("checkpoints", "student", "ray", "sampler"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _train_config(context: JobContext, folder: Path, source: Path, champion: Release | None) -> dict[str, Any]:
    training: dict[str, Any] = msgspec.to_builtins(context.distill.training)
    continued_epochs = training.pop("continued_epochs")
    if champion is not None and context.distill.start_from == "champion":
        training["layers"] = None  # they were chosen when the champion was made
        training["epochs"] = continued_epochs
    output = context.home / "releases" / release.new_release_id() / "student"
    return training | {
        "weights": str(source.resolve()),
        "examples": str((folder / "dataset" / "train.parquet").resolve()),
        "output": str(output.resolve()),
        "engine": context.distill.engine,
        "processes": context.distill.processes if context.distill.engine != "local" else 1,
        "sharding": context.distill.sharding,
    }
