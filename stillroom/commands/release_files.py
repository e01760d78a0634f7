"""``distill releases|pin|unpin|prune``: where releases come from, and whose files are kept."""

from pathlib import Path
from typing import Any, Final

import rich_click as click

from ledger import releases, retention
from ledger.artifact_store import ARTIFACT
from ledger.artifacts import read_manifest
from ledger.releases import PRUNED, Release
from stillroom.commands.common import actor, as_json, ledger_of, settings_of, show_rows, when

__all__ = ("commands",)

SHORT: Final = 8
"""Digits of a hash that tell it apart."""


@click.command("releases")
@as_json
@click.pass_context
def list_releases(context: click.Context, as_json: bool) -> None:
    """Releases with what they were made from, oldest first."""
    rows = [_row(release, whole=as_json) for release in releases.list_releases(ledger_of(context))]
    show_rows(rows, as_json, "no releases yet; `stillroom distill run` makes one")


def _row(release: Release, whole: bool) -> dict[str, Any]:
    manifest = read_manifest(Path(release.folder))
    code: dict[str, Any] = manifest.get("code", {})
    row: dict[str, Any] = {
        "release": release.id,
        "state": release.state,
        "parent": release.parent_id,
        "dataset": manifest.get("dataset", {}).get("content_hash"),
        "code": code.get("commit", code.get("version")),
        "content_hash": release.content_hash,
        "pinned": release.pinned,
        "files": "pruned" if PRUNED in release.summary else release.summary.get(ARTIFACT, release.folder),
    }
    if whole:
        return row | {"created_at": release.created_at, "promoted_at": release.promoted_at, "manifest": manifest}
    for name in ("dataset", "code", "content_hash"):
        row[name] = row[name] and row[name][:SHORT]
    row["pinned"] = "yes" if release.pinned else None
    row["files"] = "pruned" if PRUNED in release.summary else None
    return row | {"live since": when(release.promoted_at)}


def _pinning(name: str, pinned: bool, says: str, help_: str) -> click.Command:
    @click.command(name, help=help_)
    @click.argument("release_id")
    @click.pass_context
    def command(context: click.Context, release_id: str) -> None:
        retention.pin(ledger_of(context), release_id, pinned, actor())
        click.echo(f"release {release_id} is {says}")

    return command


@click.command()
@click.option("--keep", type=click.IntRange(0), help="Keep so many; unset: distill.keep_releases.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.pass_context
def prune(context: click.Context, keep: int | None, dry_run: bool) -> None:
    """Delete the files of old releases, as the worker does by itself."""
    from distill.retention import prune as prune_files

    store = ledger_of(context)
    most = settings_of(context).distill.keep_releases if keep is None else keep
    gone = retention.expendable(store, most) if dry_run else prune_files(store, most, actor())
    for release in gone:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {release.id}: {release.folder}")
    if not gone:
        click.echo("nothing to delete")


commands = (
    list_releases,
    _pinning("pin", True, "pinned", "Keep a release's files for good."),
    _pinning("unpin", False, "not pinned", "Let a release's files go when it is old."),
    prune,
)
