"""``distill report``: what the gate found of a release, and its page."""

import json
from pathlib import Path
from typing import Any

import rich_click as click

from distill.report_page import page
from ledger import jobs, releases
from ledger.releases import Release
from ledger.store import Store
from stillroom.commands.common import CommandFailed, as_json, ledger_of, show_rows

__all__ = ("report",)


@click.command()
@click.argument("job_or_release")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the page to this file.")
@as_json
@click.pass_context
def report(context: click.Context, job_or_release: str, html: Path | None, as_json: bool) -> None:
    """The checks of a release's gate, each with its number; rejected releases have them too."""
    release = _release(ledger_of(context), job_or_release)
    folder = Path(release.folder)
    found = _read(folder / "report.json")
    if html is not None:
        html.write_text(_page(found, release))
    rows: list[dict[str, Any]] = [
        {"holds": "yes" if check["passed"] else "NO", "rule": check["name"], "value": _shown(check["value"]),
         "bound": _shown(check["bound"]), "in words": check["text"]}
        for check in found["checks"]
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps({name: value for name, value in found.items() if name != "answers"}, indent=2))
        return
    show_rows(rows, False, "no checks")
    failed = [row for row in rows if row["holds"] == "NO"]
    said = (
        f"rejects it by {len(failed)} of {len(rows)} checks" if failed else f"lets it pass, {len(rows)} checks hold"
    )
    click.echo(f"release {release.id}: the gate {said}; page: {html or folder / 'report.html'}")


def _release(store: Store, name: str) -> Release:
    """The release of that name, or of that job. Raises `JobError` where there is neither."""
    known = {release.id: release for release in releases.list_releases(store)}
    if name in known:
        return known[name]
    job = jobs.get(store, name)
    if job.release_id is None:
        raise CommandFailed(f"job {name} is {job.state} and has no release yet: {job.error or 'nothing to report'}")
    return known[job.release_id]


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CommandFailed(
            f"no report at {path} ({error.strerror}): not evaluated yet, or its files are gone"
        ) from error


def _page(found: dict[str, Any], release: Release) -> str:
    if "verdict" not in found:
        raise CommandFailed(f"the report of {release.id} is of an older version, which has no page")
    return page(found)


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
