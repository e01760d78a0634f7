"""Measures a candidate as it is served, trains its router on that, judges it, and writes its release."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np

from distill import dataset, gate, release
from distill.context import JobContext, JobFailed
from distill.dataset import HeldOut, Manifest
from distill.evaluate import Comparators, Replayed, labelled, replay
from distill.golden import Asking, Golden, GoldenError, ask_golden, load_golden
from distill.labels import paid_row
from distill.measures import Cost
from distill.probes import ask_probes
from distill.report import Evaluation
from distill.served_fit import measure_fit, prepare
from distill.upstreams import Upstream
from distill.verdict import Measured, Verdict
from ledger import releases, replicas
from ledger.artifacts import MANIFEST, file_hash
from ledger.jobs import Job
from ledger.prices import Tokens, cost_nano
from ledger.records import RequestRecord
from ledger.releases import Release
from ledger.requests import get, insert_records, usage_by
from router.calibration import Evidence, Prices
from router.model import RouterModel
from router.train import train_with_evidence
from serving.parity import ParityReport, compare, probe_logprobs, trained_logprobs

__all__ = ("evaluate_candidate", "golden_prompts")

PROBES: Final = 16
READY_TIMEOUT_S: Final = 600.0
POLL_S: Final = 0.5
TIMEOUT_S: Final = 120.0
CURVE_POINTS: Final = 60


@dataclass(frozen=True, slots=True)
class _Subject:
    """A release that is measured, by the name it has in the report, and where it is served."""

    name: str
    release: Release
    student: Upstream

    @property
    def folder(self) -> Path:
        """Of its weights and its tokenizer."""
        return Path(self.release.folder) / "student"


def golden_prompts(context: JobContext) -> list[Golden]:
    """Those that the settings name. Raises `JobFailed`, before anything is trained, where they cannot be read."""
    path = context.distill.gate.golden
    try:
        return load_golden(Path(path).expanduser()) if path else []
    except GoldenError as error:
        raise JobFailed(f"distill.gate.golden: {error}") from error


async def evaluate_candidate(
    context: JobContext, job: Job, candidate: Release, champion: Release | None, manifest: Manifest
) -> Verdict:
    """Measure the candidate, and the champion on the same requests, judge, and write the release.

    Raises `JobFailed` where a student's server fails or is never ready.
    """
    held_out = dataset.read_held_out(context.folder(job) / "dataset")
    logged = await asyncio.to_thread(_logged, context, held_out[: context.distill.gate.scored])
    subject = await _subject(context, "candidate", candidate)
    parity = await _parity(context, subject, held_out)
    measured, router = await _measure(context, subject, held_out, logged)
    before = None
    if champion is not None:
        before, _ = await _measure(context, await _subject(context, "champion", champion), held_out, logged)
    verdict = gate.judge(context.distill, measured, before, parity)
    training = msgspec.json.decode((context.folder(job) / "result.json").read_bytes())
    lineage = {
        "id": candidate.id,
        "parent": candidate.parent_id,
        "job": job.id,
        "settings": msgspec.to_builtins(context.distill),
    }
    evaluation = Evaluation(verdict, measured, before, training, manifest)
    figures = release.write_release(Path(candidate.folder), router, evaluation, lineage)
    content_hash = await asyncio.to_thread(file_hash, Path(candidate.folder) / MANIFEST)
    await asyncio.to_thread(releases.set_summary, context.store, candidate.id, figures, content_hash)
    for check in verdict.checks:
        context.on_progress("check", msgspec.to_builtins(check))
    return verdict


async def _measure(
    context: JobContext, subject: _Subject, held_out: list[HeldOut], logged: dict[str, list[Any]]
) -> tuple[Measured, RouterModel]:
    """Everything that is measured of one served student, and the router that is trained on it.

    For a champion that is not the router it is served with: that one was chosen on other requests, which would
    compare luck. Neither router is warm-started: docs/evaluation-and-gate.md says why.
    """
    rows = await _replay(context, subject, held_out)
    prices = _prices(context, rows)
    router, evidence = await asyncio.to_thread(
        train_with_evidence,
        labelled(rows, context.router.hold_tokens),
        context.router.agreement_target,
        1 - context.router.confidence,
        prices,
    )
    scored = held_out[: context.distill.gate.scored]
    answers = await asyncio.to_thread(prepare, subject.folder, scored, logged)
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
            fit = await measure_fit(client, subject.student, answers)
            asking = Asking(client, subject.student, router, context.student.context_tokens)
            golden = await ask_golden(asking, golden_prompts(context))
            probes = await ask_probes(asking)
    except httpx.HTTPError as error:
        raise _failed(subject, error) from error
    cost = Cost(prices.student, prices.teacher, _expected(router), bool(_teacher_cost(context)))
    return Measured(rows, router.thresholds, cost, fit, golden or None, probes, _curve(evidence)), router


def _expected(router: RouterModel) -> float:
    """Cost of a request under the router's thresholds: the mean of streams and whole answers, as they were chosen."""
    return (router.training.held.cost + router.training.whole.cost) / 2


def _curve(evidence: Evidence) -> list[tuple[float, float]]:
    """Share answered and agreement of the system, the surest whole answers first; out of fold."""
    n = len(evidence.agreed)
    wrong = np.cumsum(~evidence.agreed[np.argsort(-evidence.whole, kind="stable")])
    places = sorted({round(n * step / CURVE_POINTS) for step in range(1, CURVE_POINTS + 1)} - {0})
    return [(0.0, 1.0), *((k / n, 1.0 - float(wrong[k - 1]) / n) for k in places)]


async def _replay(context: JobContext, subject: _Subject, held_out: list[HeldOut]) -> list[Replayed]:
    def progress(done: int) -> None:
        if done % 25 == 0 or done == len(held_out):
            context.on_progress("evaluating", {"who": subject.name, "done": done, "of": len(held_out)})

    paid: list[RequestRecord] = []
    comparators = Comparators(
        context.router, lambda *call: paid.append(paid_row(*call)), context.teacher, context.embeddings
    )
    try:
        return await replay(subject.student, held_out, comparators, progress)
    except httpx.HTTPError as error:
        raise _failed(subject, error) from error
    finally:
        await asyncio.to_thread(insert_records, context.store, paid)


def _failed(subject: _Subject, error: httpx.HTTPError) -> JobFailed:
    return JobFailed(f"the {subject.name}'s server failed while it was evaluated: {error!r}")


async def _subject(context: JobContext, name: str, wanted: Release) -> _Subject:
    """The release with a ready student of it, waiting for `serving` to have one."""
    for attempt in range(int(READY_TIMEOUT_S / POLL_S)):
        for replica in await asyncio.to_thread(replicas.list_replicas, context.store):
            if replica.release_id == wanted.id and replica.state == "ready":
                settings = context.student
                student = Upstream(replica.url, replica.model or settings.model, settings.api_key_env)
                return _Subject(name, wanted, student)
        if attempt % 10 == 0:
            context.on_progress("serving", {"release": wanted.id, "seconds": attempt * POLL_S})
        await asyncio.sleep(POLL_S)
    raise JobFailed(
        f"no student of release {wanted.id} was ready after {READY_TIMEOUT_S:.0f} s: "
        "see the logs folder, and whether `stillroom serve` (or `up`) runs"
    )


async def _parity(context: JobContext, subject: _Subject, held_out: list[HeldOut]) -> ParityReport:
    answers = await asyncio.to_thread(prepare, subject.folder, held_out[:PROBES], {})
    probes = [[*answer.prompt, *answer.answer] for answer in answers]
    trained = await asyncio.to_thread(trained_logprobs, subject.folder, probes)
    student = subject.student
    async with httpx.AsyncClient(trust_env=False, headers=student.headers) as client:
        served = await probe_logprobs(student.url.removesuffix("/v1"), student.model, probes, client)
    return compare(served, trained, context.distill.parity_tolerance)


def _logged(context: JobContext, rows: Sequence[HeldOut]) -> dict[str, list[Any]]:
    """The teacher's tokens of the answers that are still in the ledger as they were given."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        _, content = get(context.store, row.id) or (None, None)
        if content is not None and content.teacher_logprobs and content.answer == row.answer:
            found[row.id] = content.teacher_logprobs
    return found


def _prices(context: JobContext, rows: Sequence[Replayed]) -> Prices:
    """Expected cost of a request on each route: the student's from its own answers here, so that one that says more
    costs more, and the teacher's from the traffic's mean token counts.
    """
    teacher = _teacher_cost(context)
    costs = [cost_nano(context.student.price, row.usage) for row in rows]
    # without prices the teacher's share is what is to be small
    return Prices(sum(costs) / max(1, len(costs)), teacher) if teacher else Prices(0, 1)


def _teacher_cost(context: JobContext) -> int:
    usage = usage_by(context.store, ["route"]).get(("teacher",))
    n = max(1, usage.requests) if usage else 1
    tokens = Tokens(usage.prompt_tokens // n, usage.completion_tokens // n) if usage else Tokens()
    return cost_nano(context.teacher_price, tokens)
