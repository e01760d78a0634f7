"""``up``, ``gateway``, ``serve`` and ``worker``: the processes."""

import asyncio
import signal
from functools import partial
from pathlib import Path
from typing import Any

import rich_click as click

from stillroom.commands.common import CommandFailed, settings_of
from stillroom.parts import (
    build_fleet,
    check_students,
    configure_logging,
    job_context,
    open_ledger,
    until_signalled,
)

__all__ = ("commands",)


@click.command()
@click.pass_context
def up(context: click.Context) -> None:
    """Run everything on this machine: gateway, students, worker. SIGHUP has the gateway read its settings again."""
    from stillroom.up import run_all

    settings = settings_of(context)
    check_students(settings)
    open_ledger(settings).close()
    address = f"http://{settings.gateway.host}:{settings.gateway.port}"
    click.echo(f"stillroom: gateway at {address}/v1, pages at {address}/ops, home {settings.home_path}")
    config: Path | None = context.find_root().obj
    logs = settings.home_path / "logs"
    logs.mkdir(parents=True, exist_ok=True)

    async def run() -> int:
        return await run_all(config, logs, _told(), click.echo)

    if asyncio.run(run()):
        raise CommandFailed("a part refused to start; its log says why")


def _told() -> tuple[asyncio.Event, asyncio.Event]:
    """Events of the running loop: to end, and to read the settings again."""
    reload = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.set)
    return until_signalled(), reload


@click.command()
@click.option("--siblings", type=click.Path(path_type=Path), hidden=True, help="Folder that the workers meet in.")
@click.pass_context
def gateway(context: click.Context, siblings: Path | None) -> None:
    """Run the gateway alone, in gateway.workers processes. SIGHUP has it read its settings again."""
    settings = settings_of(context)
    configure_logging()
    workers = settings.gateway.workers
    if workers == 1 or siblings is not None:
        from stillroom.compose import run_gateway

        run_gateway(settings, lambda: settings_of(context), siblings)
        return
    from gateway.server import listen
    from stillroom.up import run_workers

    open_ledger(settings).close()
    # said once, before there are workers that could not say it
    listen(settings.gateway.host, settings.gateway.port).close()
    config: Path | None = context.find_root().obj

    async def run() -> int:
        return await run_workers(config, workers, _told(), partial(click.echo, err=True))

    if asyncio.run(run()):
        raise CommandFailed("a worker refused to start; the lines above say why")


@click.command()
@click.pass_context
def serve(context: click.Context) -> None:
    """Keep this machine's students running: one for the live release, one for a candidate."""
    settings = settings_of(context)
    check_students(settings)
    configure_logging()
    store = open_ledger(settings)

    async def run() -> None:
        if settings.student.base_url is not None:
            # somebody else serves the student; stay, so that `up` has three parts in either case
            await until_signalled().wait()
            return
        await build_fleet(settings, store, lambda _release, _state: None).run(until_signalled())

    asyncio.run(run())
    store.close()


@click.command()
@click.pass_context
def worker(context: click.Context) -> None:
    """Run queued re-distillations, one at a time."""
    from distill.worker import run_worker

    settings = settings_of(context)
    configure_logging()
    store = open_ledger(settings)

    def ignore(_kind: str, _data: dict[str, Any]) -> None:
        return

    async def run() -> None:
        await run_worker(job_context(settings, store, ignore), until_signalled())

    asyncio.run(run())
    store.close()


commands = (up, gateway, serve, worker)
