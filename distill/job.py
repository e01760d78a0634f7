"""One re-distillation from beginning to end: build, train, evaluate, judge, release.

Every stage leaves its result in the job's folder and is skipped when that is there: a job whose worker died goes on
with the next worker that claims it.
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from distill import dataset, gate, release
from distill.child import run_trainer
from distill.dataset import HeldOut, Manifest
from distill.evaluate import Comparators, Replayed, labelled, replay
from distill.labels import paid_row
from distill.settings import DistillSettings
from distill.upstreams import Upstream
from ledger import jobs, releases, replicas
from ledger.artifacts import folder_hash
from ledger.jobs import Job
from ledger.prices import Price, Tokens, cost_nano
from ledger.records import RequestRecord
from ledger.releases import Release
from ledger.requests import insert_records, usage_by
from ledger.store import Store, now_ms
from router.calibration import Prices
from router.model import RouterModel
from router.settings import RouterSettings
from router.train import train_router
from serving.parity import ParityReport, compare, probe_logprobs, trained_logprobs
from serving.settings import StudentSettings
from serving.weights import resolve_weights

__all__ = ("JobContext", "JobFailed", "drop_scratch", "run_job")

PROBES: Final = 16
READY_TIMEOUT_S: Final = 600.0
POLL_S: Final = 0.5
SETTLED: Final = {"live": "live", "retired": "live", "rejected": "rejected", "rolled_back": "rolled_back"}
"""How a job has ended whose release is no longer a candidate."""

Progress = Callable[[str, dict[str, Any]], None]


class JobFailed(Exception):
    """The job cannot go on; the message is its cause."""


@dataclass(frozen=True)
class JobContext:
    """What a worker brings to a job."""

    store: Store
    home: Path
    distill: DistillSettings
    student: StudentSettings
    router: RouterSettings
    teacher_price: Price
    owner: str
    on_progress: Progress
    teacher: Upstream | None = None
    """Who judges answers, where the settings name a judge."""
    embeddings: Upstream | None = None

    def folder(self, job: Job) -> Path:
        """The job's working folder."""
        return self.home / "jobs" / job.id

    async def enter(self, job: Job, state: str, **values: Any) -> None:
        """Move the job on. Raises `JobError` when another worker holds it."""
        await asyncio.to_thread(lambda: jobs.set_state(self.store, job.id, self.owner, state, **values))
        self.on_progress("state", {"state": state})


async def run_job(context: JobContext, job: Job) -> str:
    """Run the job that this worker holds; returns the state it ended in. Raises `JobFailed` with the cause."""
    if context.student.base_url is not None:
        raise JobFailed(
            "student.base_url is set, so nothing serves a candidate to evaluate it: unset it, so that Stillroom "
            "starts the students itself"
        )
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
    verdict = await _evaluate(context, job, candidate, champion, manifest)
    if not verdict.passed:
        await asyncio.to_thread(releases.reject, context.store, candidate.id, "gate", verdict.why_not())
        await context.enter(job, "rejected", error=verdict.why_not())
        return "rejected"
    if context.distill.approval == "manual":
        await context.enter(job, "awaiting_approval")
        return "awaiting_approval"
    await asyncio.to_thread(releases.promote, context.store, candidate.id, f"gate:{job.id}")
    await context.enter(job, "live")
    return "live"


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
    explore_rate = context.router.explore_share
    return dataset.build_dataset(context.store, context.distill, explore_rate, tokenizer, folder)


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
    )
    await asyncio.to_thread(releases.add, context.store, candidate)
    return candidate


def drop_scratch(folder: Path) -> None:
    """Delete what only an unfinished training needs: its checkpoints are several times the model's size."""
    for name in ("checkpoints", "student"):
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
    }


async def _evaluate(
    context: JobContext, job: Job, candidate: Release, champion: Release | None, manifest: Manifest
) -> gate.Verdict:
    """Measure the candidate as it is served, train its router on that, judge, and write the release."""
    held_out = dataset.read_held_out(context.folder(job) / "dataset")
    url = await _ready_url(context, candidate)
    parity = await _parity(context, candidate, url, held_out)
    rows = await _replay(context, "candidate", url, held_out)
    router = await _train_router(context, rows)
    champion_rows, measured = None, None
    if champion is not None:
        champion_rows = await _replay(context, "champion", await _ready_url(context, champion), held_out)
        # not the router it is served with: that one was chosen on other requests, which would compare luck
        measured = gate.Measured(champion_rows, (await _train_router(context, champion_rows)).thresholds)
    verdict = gate.judge(context.distill, gate.Measured(rows, router.thresholds), measured, parity)
    training = msgspec.json.decode((context.folder(job) / "result.json").read_bytes())
    evaluation = release.Evaluation(verdict, rows, champion_rows, training, manifest)
    lineage = {
        "id": candidate.id,
        "parent": candidate.parent_id,
        "job": job.id,
        "settings": msgspec.to_builtins(context.distill),
    }
    figures = release.write_release(Path(candidate.folder), router, evaluation, lineage)
    await asyncio.to_thread(releases.set_summary, context.store, candidate.id, figures, candidate.content_hash)
    for check in verdict.checks:
        context.on_progress("check", msgspec.to_builtins(check))
    return verdict


async def _train_router(context: JobContext, rows: Sequence[Replayed]) -> RouterModel:
    return await asyncio.to_thread(
        train_router,
        labelled(rows, context.router.hold_tokens),
        context.router.agreement_target,
        1 - context.router.confidence,
        _prices(context),
    )


async def _replay(context: JobContext, name: str, url: str, held_out: list[HeldOut]) -> list[Replayed]:
    def progress(done: int) -> None:
        if done % 25 == 0 or done == len(held_out):
            context.on_progress("evaluating", {"who": name, "done": done, "of": len(held_out)})

    paid: list[RequestRecord] = []
    comparators = Comparators(
        context.router, lambda *call: paid.append(paid_row(*call)), context.teacher, context.embeddings
    )
    student = Upstream(url, context.student.model)
    try:
        return await replay(student, held_out, comparators, progress)
    except httpx.HTTPError as error:
        raise JobFailed(f"the {name}'s server failed while it was evaluated: {error!r}") from error
    finally:
        await asyncio.to_thread(insert_records, context.store, paid)


async def _ready_url(context: JobContext, wanted: Release) -> str:
    """The URL of a ready student of the release, waiting for `serving` to have one."""
    for attempt in range(int(READY_TIMEOUT_S / POLL_S)):
        for replica in await asyncio.to_thread(replicas.list_replicas, context.store):
            if replica.release_id == wanted.id and replica.state == "ready":
                return replica.url
        if attempt % 10 == 0:
            context.on_progress("serving", {"release": wanted.id, "seconds": attempt * POLL_S})
        await asyncio.sleep(POLL_S)
    raise JobFailed(
        f"no student of release {wanted.id} was ready after {READY_TIMEOUT_S:.0f} s: "
        "see the logs folder, and whether `stillroom serve` (or `up`) runs"
    )


async def _parity(context: JobContext, candidate: Release, url: str, held_out: list[HeldOut]) -> ParityReport:
    folder = Path(candidate.folder) / "student"
    probes = await asyncio.to_thread(_probes, folder, held_out[:PROBES])
    trained = await asyncio.to_thread(trained_logprobs, folder, probes)
    async with httpx.AsyncClient(trust_env=False) as client:
        served = await probe_logprobs(url.removesuffix("/v1"), context.student.model, probes, client)
    return compare(served, trained, context.distill.parity_tolerance)


def _probes(folder: Path, rows: list[HeldOut]) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = [dataset.render(row.messages, tokenizer) + row.answer for row in rows]
    return [tokenizer(text, add_special_tokens=False).input_ids for text in texts]


def _prices(context: JobContext) -> Prices:
    """Expected cost of a request on each route, from the traffic's mean token counts."""
    usage = usage_by(context.store, ["route"]).get(("teacher",))
    n = max(1, usage.requests) if usage else 1
    tokens = Tokens(usage.prompt_tokens // n, usage.completion_tokens // n) if usage else Tokens()
    student, teacher = (cost_nano(price, tokens) for price in (context.student.price, context.teacher_price))
    # without prices the teacher's share is what is to be small
    return Prices(student, teacher) if teacher else Prices(0, 1)
