"""``ledger stats|feedback|events|expire``, and what the modules beside this one have."""

import math
from typing import Any

import msgspec
import rich_click as click

from ledger import events as loop_events
from ledger.feedback import newest
from ledger.records import NANO
from ledger.requests import expire_contents, latency_quantile, usage_by
from ledger.responses import expire as expire_responses
from ledger.rollups import DAY_MS
from ledger.store import now_ms
from stillroom.commands import ledger_content
from stillroom.commands.common import as_json, ledger_of, show_rows, when
from stillroom.commands.ledger_archive import archive
from stillroom.commands.ledger_export import export_
from stillroom.commands.ledger_migrate import migrate

__all__ = ("group",)


@click.group("ledger")
def group() -> None:
    """The record of every request."""


@group.command()
@as_json
@click.pass_context
def stats(context: click.Context, as_json: bool) -> None:
    """Requests, cost and saving by route and reason."""
    store = ledger_of(context)
    rows: list[dict[str, Any]] = []
    for (route, reason), usage in sorted(usage_by(store, ["route", "reason"]).items()):
        p50 = latency_quantile(store, route, 0.5)
        rows.append(
            {
                "route": route,
                "reason": reason,
                "requests": usage.requests,
                "errors": usage.errors,
                "tokens": usage.prompt_tokens + usage.completion_tokens,
                "cost": usage.cost_nano / NANO,
                "baseline": usage.baseline_nano / NANO,
                "route p50 ms": round(p50) if p50 is not None else None,
            }
        )
    show_rows(rows, as_json, "no requests recorded yet")


@group.command()
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@as_json
@click.pass_context
def feedback(context: click.Context, limit: int, as_json: bool) -> None:
    """The newest feedback: what callers said of the answers they got."""
    rows = [
        {
            "request": said.request_id,
            "at": when(said.created_at),
            "key": said.key_id,
            "score": said.score,
            "label": said.label,
            "correction": said.correction,
            "comment": said.comment,
        }
        for said in newest(ledger_of(context), limit)
    ]
    show_rows(rows, as_json, "no feedback yet; clients send it to /v1/feedback")


@group.command()
@click.option("--kind", help="Of this kind only, as in drift.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@as_json
@click.pass_context
def events(context: click.Context, kind: str | None, limit: int, as_json: bool) -> None:
    """The newest events that ask for a look or for a new release: drift."""
    rows: list[dict[str, Any]] = [
        {
            "id": event.id,
            "at": when(event.at),
            "kind": event.kind,
            "subject": event.subject,
            "data": event.data if as_json else msgspec.json.encode(event.data).decode(),
        }
        for event in loop_events.newest(ledger_of(context), limit, kind)
    ]
    show_rows(rows, as_json, f"no events {f'of kind {kind} ' if kind else ''}yet")


@group.command()
@click.option("--days", type=click.FloatRange(0, 36_500), required=True, help="Keep content younger than this.")
@click.pass_context
def expire(context: click.Context, days: float) -> None:
    """Delete the content of older requests; their rows and sums stay."""
    if math.isnan(days):
        raise click.BadParameter("nan is not a number of days.", context, param_hint="'--days'")
    ledger, before = ledger_of(context), now_ms() - int(days * DAY_MS)
    deleted, responses = expire_contents(ledger, before), expire_responses(ledger, before)
    click.echo(f"deleted the content of {deleted} requests" + (f", and {responses} responses" if responses else ""))


for command in (*ledger_content.commands, archive, export_, migrate):
    group.add_command(command)
