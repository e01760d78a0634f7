"""``distill canary show|start|stop|promote``."""

from typing import Any, cast

import msgspec
import rich_click as click

from ledger import canaries, releases
from ledger.canaries import Canary, Mode, Trial
from ledger.store import Store
from stillroom.commands.common import CommandFailed, actor, as_json, ledger_of, settings_of, show_rows, when

__all__ = ("group",)


@click.group("canary")
def group() -> None:
    """The release that is tried on a part of the traffic before it goes live."""


@group.command()
@as_json
@click.pass_context
def show(context: click.Context, as_json: bool) -> None:
    """What is tried now, or was last, and how it compares with the champion."""
    canary = canaries.newest(ledger_of(context))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(canary)).decode())
        return
    if canary is None:
        click.echo("no release was tried yet; `stillroom distill canary start RELEASE` does")
        return
    state = "is open" if canary.ended_at is None else f"ended {when(canary.ended_at)}: {canary.outcome}"
    click.echo(
        f"release {canary.release_id} against {canary.champion_id}, {canary.mode} of {canary.share:.1%} of the "
        f"conversations since {when(canary.started_at)}; {state}"
    )
    if why := canary.figures.get("why"):
        click.echo(why)
    show_rows(_rows(canary), False, "no look at its figures yet; a worker looks every few seconds")


def _rows(canary: Canary) -> list[dict[str, Any]]:
    return [
        {
            "rule": rule["name"],
            "candidate": _number(rule["candidate"]),
            "champion": _number(rule["champion"]),
            "worse by, 95 %": f"{_number(rule['low'])} to {_number(rule['high'])}",
            "allowed": _number(rule["bound"]),
            "seen": f"{rule['n'][0]} / {rule['n'][1]}",
            "shown": "broken" if rule["broken"] else "holds" if rule["holds"] else "open",
        }
        for rule in canary.figures.get("rules", ())
    ]


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


@group.command()
@click.argument("release_id")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), help="Of the conversations; else the settings'.")
@click.option("--mode", type=click.Choice(["canary", "shadow"]), help="Whether its answers are shown.")
@click.pass_context
def start(context: click.Context, release_id: str, share: float | None, mode: str | None) -> None:
    """Try a release beside the live one."""
    chosen = settings_of(context).distill.canary
    usual: Mode = "canary" if chosen.mode == "off" else chosen.mode
    trial = Trial(cast("Mode", mode) if mode else usual, chosen.share if share is None else share)
    canaries.start(ledger_of(context), release_id, trial, actor())
    click.echo(f"release {release_id} is tried on {trial.share:.1%} of the conversations ({trial.mode})")


@group.command()
@click.pass_context
def stop(context: click.Context) -> None:
    """Take the release back that is tried; the champion has all the traffic again."""
    store = ledger_of(context)
    canary = _open(store)
    canaries.finish(store, canary, "stopped", actor())
    click.echo(f"took back {canary.release_id}; {canary.champion_id} has all the traffic")


@group.command()
@click.pass_context
def promote(context: click.Context) -> None:
    """Make the release live that is tried, whatever its figures say."""
    store = ledger_of(context)
    canary = _open(store)
    releases.promote(store, canary.release_id, actor(), was="canary")
    click.echo(f"release {canary.release_id} is live")


def _open(store: Store) -> Canary:
    canary = canaries.current(store)
    if canary is None:
        raise CommandFailed("no canary is open")
    return canary
