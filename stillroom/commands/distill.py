"""``distill run|list|show|approve|reject|promote|rollback|cancel|triggers``, and ``distill canary``."""

import asyncio
import contextlib
import time
from typing import Any, Final

import msgspec
import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from distill.context import JobFailed
from distill.job_options import as_asked
from ledger import approvals, jobs, releases
from ledger.jobs import Job
from ledger.store import Store
from stillroom.commands import canary, data, distill_report, job_control, release_files, targets
from stillroom.commands.common import CommandFailed, actor, as_json, ledger_of, settings_of, show_rows, when
from stillroom.commands.data_filters import filter_options, given_filters
from stillroom.settings import Settings

__all__ = ("JobProgress", "group")

SAY_EVERY_S: Final = 10.0
KEEPER_S: Final = 1.0
"""How often it is looked for who keeps the students."""


@click.group("distill")
def group() -> None:
    """Re-distillations and the releases they make."""


group.add_command(canary.group)
group.add_command(distill_report.report)
group.add_command(data.data)
group.add_command(targets.targets)
for command in (*release_files.commands, *job_control.commands):
    group.add_command(command)


class JobProgress:
    """Shows a job's events: a bar for training and evaluation, a line for everything else."""

    def __init__(self, console: Console) -> None:
        self.bars = Progress(
            TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=console,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._console = console
        self._said, self._open = 0.0, ""

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        """Show one event."""
        if kind == "preparing":
            self._bar("frozen layers", data["done"], data["of"], "")
        elif kind == "dataset_progress":
            self._bar(f"dataset: {data['what']}", data["done"], data["of"] or data["done"], "")
        elif kind == "training":
            note = (
                f"loss {data['loss']:.3f}, {data['tokens_per_second']:.0f} tokens/s, {data['eta_seconds']:.0f} s left"
            )
            self._bar("training", data["step"], data["steps"], note)
        elif kind == "evaluating":
            self._bar(f"asking the {data['who']}", data["done"], data["of"], "")
        elif kind == "serving":
            self.bars.print(f"  waiting for a student of {data['release']} ({data['seconds']:.0f} s)")
        elif kind == "restart":
            self.bars.print(f"  the trainer was ended by {data['ended_by']}; it goes on from its checkpoint")
        elif kind == "dataset":
            self.bars.print(
                f"  dataset: {data['train']} to train on, {data['held_out']} held out, "
                f"{data['aligned_share']:.0%} of the tokens with soft targets, dropped {data['dropped'] or 'none'}"
            )
        elif kind in ("check", "warning"):
            said = kind if kind == "warning" else "passed" if data["passed"] else "FAILED"
            self.bars.print(f"  {said}: {data['text']}")
        elif kind == "state":
            self.bars.print(f"  {data['state'].replace('_', ' ')}")

    def _bar(self, name: str, done: float, total: float, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self.bars.add_task(name, total=total, note=note)
        self.bars.update(self._tasks[name], completed=done, total=total, note=note)
        now = time.monotonic()
        ends = done >= total and name == self._open
        if not self._console.is_terminal and (ends or now - self._said > SAY_EVERY_S):
            # a log file shows no bar
            self._said, self._open = now, "" if done >= total else name
            self._console.print(f"  {name} {done:.0f}/{total:.0f} {note}")


@group.command()
@click.option("--note", default="", help="Kept with the job.")
@click.option("--max-examples", type=click.IntRange(1), help="Take so many examples at most.")
@click.option("--start-from", type=click.Choice(["champion", "base"]), help="Instead of distill.start_from.")
@filter_options
@click.pass_context
def run(context: click.Context, **options: Any) -> None:
    """Distil a new release from the ledger, evaluate it, and let it go live if its gate passes.

    Runs here, or in the worker of `stillroom up` where that is faster to take the job. With filters its release waits
    for `distill approve`: the gate has seen a part of the traffic.
    """
    from serving.fleet import keeper_alive
    from stillroom.parts import check_students

    settings = settings_of(context)
    asked = _asked(settings, options)
    store = ledger_of(context)
    if not keeper_alive(store):
        check_students(settings)
    job = jobs.create(store, "manual", actor(), asked)
    progress = JobProgress(Console())
    click.echo(f"job {job.id}")
    with progress.bars:
        asyncio.run(_run_or_follow(settings, store, job, progress))
    ended = jobs.get(store, job.id)
    if ended.state == "awaiting_approval":
        click.echo(f"release {ended.release_id} passed its gate; `stillroom distill approve {job.id}` makes it live")
    elif ended.state == "canary":
        click.echo(
            f"release {ended.release_id} passed its gate and is tried; `stillroom distill canary show` says how"
        )
    elif ended.state != "live":
        raise CommandFailed(f"job {job.id} ended as {ended.state}: {ended.error or 'no reason recorded'}")
    else:
        click.echo(f"release {ended.release_id} is live")


def _asked(settings: Settings, options: dict[str, Any]) -> dict[str, Any]:
    """The job's own settings. Raises ``click.UsageError`` where they cannot be used."""
    told = {name: options[name] for name in ("note", "max_examples", "start_from") if options[name]}
    asked = told | given_filters(options)
    try:
        as_asked(settings.distill, asked)
    except JobFailed as error:
        raise click.UsageError(str(error)) from error
    return asked


async def _run_or_follow(settings: Settings, store: Store, job: Job, progress: JobProgress) -> None:
    from distill.worker import run_claimed
    from stillroom.parts import job_context

    context = job_context(settings, store, progress)
    claimed = jobs.claim(store, context.owner, job.id)
    if claimed is None:
        await _follow(store, job, progress)
        return
    stop = asyncio.Event()
    fleet = None
    if settings.student.base_url is None:
        fleet = asyncio.create_task(_keep_students(settings, store, stop))
    try:
        await run_claimed(context, claimed)
    finally:
        stop.set()
        if fleet is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await fleet


async def _keep_students(settings: Settings, store: Store, stop: asyncio.Event) -> None:
    """As soon as no other process does: one that was killed seems to for some seconds."""
    from serving.fleet import keeper_alive
    from stillroom.parts import build_fleet

    while await asyncio.to_thread(keeper_alive, store):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), KEEPER_S)
            return
    await build_fleet(settings, store, lambda _r, _s: None).run(stop)


async def _follow(store: Store, job: Job, progress: JobProgress) -> None:
    seen = 0
    while True:
        current = jobs.get(store, job.id)
        for event in jobs.events(store, job.id, seen):
            seen = event["id"]
            progress(event["kind"], event["data"])
        if current.state not in jobs.ACTIVE_STATES:
            return
        await asyncio.sleep(0.5)


@group.command("list")
@as_json
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """Jobs, and the releases they made."""
    store = ledger_of(context)
    states = {release.id: release for release in releases.list_releases(store)}
    rows: list[dict[str, Any]] = []
    for job in jobs.list_jobs(store):
        release = states.get(job.release_id or "")
        rows.append(
            {
                "job": job.id,
                "state": job.state,
                "created": when(job.created_at),
                "release": job.release_id,
                "release state": release.state if release else None,
                "student agreement": _percent(release.summary.get("student_agreement")) if release else None,
                "error": job.error,
            }
        )
    show_rows(rows, as_json, "no jobs yet; `stillroom distill run` makes one")


def _percent(share: float | None) -> str | None:
    return f"{share:.1%}" if share is not None else None


@group.command()
@click.argument("job_id")
@click.pass_context
def show(context: click.Context, job_id: str) -> None:
    """One job with its events, as JSON."""
    store = ledger_of(context)
    whole = {"job": jobs.get(store, job_id), "events": jobs.events(store, job_id)}
    click.echo(msgspec.json.format(msgspec.json.encode(whole)).decode())


@group.command()
@click.argument("job_id")
@click.pass_context
def approve(context: click.Context, job_id: str) -> None:
    """Let the release of a job that awaits approval go live, or be tried first where the settings say so."""
    store = ledger_of(context)
    job = approvals.approve(store, job_id, actor(), settings_of(context).distill.canary.trial)
    what = "is tried; `stillroom distill canary show` says how" if job.state == "canary" else "is live"
    click.echo(f"release {job.release_id} {what}")


@group.command()
@click.argument("release_id")
@click.pass_context
def promote(context: click.Context, release_id: str) -> None:
    """Make a release live that is not."""
    releases.promote(ledger_of(context), release_id, actor())
    click.echo(f"release {release_id} is live")


@group.command()
@click.pass_context
def rollback(context: click.Context) -> None:
    """Take the live release back for the one before it."""
    taken_back, live = releases.rollback(ledger_of(context), actor())
    click.echo(f"took back {taken_back.id}; {live.id} is live again")


@group.command()
@click.argument("job_id")
@click.pass_context
def cancel(context: click.Context, job_id: str) -> None:
    """Stop a job."""
    job = jobs.cancel(ledger_of(context), job_id, actor())
    click.echo(f"job {job_id}: {'cancelled' if job.state == 'cancelled' else 'its worker stops it within seconds'}")
