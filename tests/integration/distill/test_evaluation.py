"""A candidate and a champion, measured through servers; tests/e2e does it for a candidate with a real vLLM."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill.context import JobContext, JobFailed
from distill.dataset import HeldOut, Manifest
from distill.evaluation import evaluate_candidate, golden_prompts
from distill.gate_settings import GateSettings
from ledger import releases, replicas
from ledger.jobs import Job
from ledger.records import Content
from ledger.releases import Release
from ledger.replicas import Replica
from ledger.requests import insert_records
from serving.parity import trained_logprobs
from tests.integration.distill.worlds import World, answered
from tests.unit.distill.fake_server import FakeServer

LOGGED = [{"token": "late", "logprob": -0.1, "top_logprobs": [{"token": "late", "logprob": -0.1}]}]
GOLDEN = '{"id": "says_nothing_rude", "prompt": "parcel", "not_contains": ["nonsense"]}\n'


def held_out(world: World, number: int) -> HeldOut:
    """A request whose answer the teacher logged with its log-probabilities."""
    messages = [{"role": "user", "content": f"parcel {number}"}]
    parameters = {"temperature": 0, "max_tokens": 3}
    content = Content(messages=messages, parameters=parameters, answer="late", teacher_logprobs=LOGGED)
    insert_records(world.store, [answered(5_000 + number, content=content)])
    return HeldOut(f"req_{5_000 + number}", messages, parameters, "late", ["even" if number % 2 else "odd"])


def release(world: World, name: str) -> Release:
    """The tiny model as a release's student."""
    folder = world.home / "releases" / name
    shutil.copytree(world.weights, folder / "student")
    made = Release(name, "candidate", 1, None, None, None, str(folder), "hash", {})
    releases.add(world.store, made)
    return made


def evaluated(world: World, context: JobContext, count: int) -> Job:
    """A job that has built its dataset and trained."""
    job = world.claimed(context)
    dataset = context.folder(job) / "dataset"
    dataset.mkdir(parents=True)
    rows = [held_out(world, number) for number in range(count)]
    (dataset / "held_out.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, rows)) + b"\n")
    (context.folder(job) / "result.json").write_text('{"seconds": 1.0}')
    return job


@pytest.fixture
def engine(world: World) -> Iterator[FakeServer]:
    """A fake of vLLM: log-probabilities of the tiny model's own, and one answer to every chat."""
    lock = threading.Lock()

    def script(path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/completions":
            with lock:
                (scores,) = trained_logprobs(world.weights, [body["prompt"]])
            pairs = zip(body["prompt"][1:], scores, strict=True)
            return {"choices": [{"prompt_logprobs": [None, *({str(t): {"logprob": p}} for t, p in pairs)]}]}
        token = {"logprob": -0.1, "top_logprobs": [{"logprob": -0.1}, {"logprob": -2.5}]}
        answer = "late" if body["messages"][-1]["content"].startswith("parcel") else "no"
        choice = {"message": {"content": answer}, "logprobs": {"content": [token] * 2}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}

    server = FakeServer(script)
    yield server
    server.close()


@pytest.mark.timeout(200)
async def test_everything_is_measured_of_both_and_the_same_weights_are_found_equal(
    world: World, engine: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STUDENT_API_KEY", "students-own")
    golden = tmp_path / "golden.jsonl"
    golden.write_text(GOLDEN)
    context = world.context(gate=GateSettings(golden=str(golden), max_perplexity=1.5, max_kl=1e-6))
    job = evaluated(world, context, 24)
    made = [release(world, name) for name in ("r_candidate", "r_champion")]

    async def keep() -> None:
        while True:
            for each in made:
                replica = Replica(each.id, each.id, engine.url, "ready", 0, "", f"model of {each.id}")
                await asyncio.to_thread(replicas.report, world.store, replica)
            await asyncio.sleep(2)

    keeper = asyncio.create_task(keep())
    try:
        verdict = await evaluate_candidate(context, job, *made, Manifest(1, 30, 24, {}, 0.9, {}, "hash"))
    finally:
        keeper.cancel()
    assert {key for _, _, key in engine.seen} == {"Bearer students-own"}
    checks = {check.name: check for check in verdict.checks}
    assert checks["parity"].passed and checks["not_worse_than_champion"].value == pytest.approx(-0.1013, abs=1e-3)
    assert not checks["not_worse_than_champion"].passed, "24 requests cannot show that it is not 2 points worse"
    assert checks["cost_against_champion"].value == 1.0
    assert not checks["perplexity"].passed and not checks["divergence"].passed, "the tiny model knows nothing"
    assert checks["golden"].passed and checks["probes"].passed

    report = json.loads((Path(made[0].folder) / "report.json").read_bytes())
    assert report["verdict"] == "rejected"
    assert report["candidate"]["fit"] == report["champion"]["fit"]
    assert report["candidate"]["fit"]["answers"] == 24
    assert report["candidate"]["fit"]["kl_tokens"] > 0
    assert report["candidate"]["speed"]["tokens_per_second"] > 0
    assert report["candidate"]["agreement"] == report["champion"]["agreement"] == 1.0
    assert {part["name"] for part in report["slices"]} == {"tag:even", "tag:odd"}
    assert len(report["candidate"]["probes"]) > 20
    assert "rejected" in (Path(made[0].folder) / "report.html").read_text()
    assert releases.get(world.store, "r_candidate").summary["checks"]
    assert {body["model"] for _, body, _ in engine.seen} == {"model of r_candidate", "model of r_champion"}


async def test_golden_prompts_that_cannot_be_read_fail_the_job_before_it_trains(world: World, tmp_path: Path):
    context = world.context(gate=GateSettings(golden=str(tmp_path / "none.jsonl")))
    with pytest.raises(JobFailed, match=r"distill\.gate\.golden: cannot read the golden prompts"):
        golden_prompts(context)
    assert golden_prompts(world.context()) == []
