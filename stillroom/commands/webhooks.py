"""``webhooks list|deliveries|test|retry``: who is told of events, and what came of it."""

import asyncio
import secrets
from typing import Any

import rich_click as click

from gateway.webhook_endpoints import Attempted, Endpoint, WebhookError, open_webhook_client, post
from ledger import outbox
from ledger.outbox import STATES, Message, OutboxError
from ledger.store import now_ms
from stillroom.commands.common import CommandFailed, actor, as_json, ledger_of, settings_of, show_rows, when
from stillroom.settings import Settings

__all__ = ("group",)


@click.group("webhooks")
def group() -> None:
    """Who is told of jobs, releases, canaries, drift and budgets (docs/webhooks.md)."""


@group.command("list")
@as_json
@click.pass_context
def list_webhooks(context: click.Context, as_json: bool) -> None:
    """The receivers of the settings, and how many deliveries each has in each state."""
    settings, found = settings_of(context), outbox.counts(ledger_of(context))
    rows: list[dict[str, Any]] = [
        {
            "webhook": each.name,
            "events": list(each.events) if as_json else ", ".join(each.events),
            **{state: found.get((each.name, state), 0) for state in STATES},
        }
        for each in settings.webhooks
    ]
    show_rows(rows, as_json, "no webhooks yet; [[webhooks]] in the settings names them")


@group.command()
@click.option("--webhook", help="To this one only.")
@click.option("--state", type=click.Choice(STATES), help="In this state only.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@as_json
@click.pass_context
def deliveries(context: click.Context, webhook: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """The newest deliveries, newest first."""
    rows: list[dict[str, Any]] = [
        {
            "id": each.id,
            "webhook": each.endpoint,
            "event": each.kind,
            "subject": each.subject,
            "at": when(each.at),
            "state": each.state,
            "attempts": each.attempts,
            "next": when(each.due_at),
            "error": each.last_error,
            "message": each.message_id,
        }
        for each in outbox.deliveries(ledger_of(context), limit, None, webhook, state)
    ]
    show_rows(rows, as_json, "no deliveries yet")


@group.command()
@click.argument("name")
@click.pass_context
def test(context: click.Context, name: str) -> None:
    """Send the event ``webhook.test`` to a receiver now, once, and say what it answered."""
    endpoint = _endpoint(settings_of(context), name)
    message = Message(f"msg_{secrets.token_hex(16)}", now_ms(), "webhook.test", name, {"webhook": name})
    attempted = asyncio.run(_sent(endpoint, message))
    took = f"after {attempted.seconds:.2f} s"
    if attempted.error is not None:
        raise CommandFailed(f"webhook {name!r} did not take it: {attempted.error} ({took})")
    click.echo(f"taken with status {attempted.status} {took}, as {message.id}")


@group.command()
@click.argument("delivery", type=click.IntRange(1, 2**31 - 1), required=False)
@click.option("--failed", is_flag=True, help="All that were given up, instead of one.")
@click.option("--webhook", help="With --failed: those to this one only.")
@click.pass_context
def retry(context: click.Context, delivery: int | None, failed: bool, webhook: str | None) -> None:
    """Have a delivery sent again at once, or all that were given up; receivers know them by their message's id."""
    if (delivery is None) == (not failed):
        raise click.UsageError("name one delivery, or --failed", context)
    if webhook is not None and not failed:
        raise click.UsageError("--webhook goes with --failed", context)
    try:
        count = outbox.retry(ledger_of(context), actor(), delivery, webhook)
    except OutboxError as error:
        raise CommandFailed(str(error)) from error
    click.echo(f"{count} to be sent again; a running gateway does so within seconds")


def _endpoint(settings: Settings, name: str) -> Endpoint:
    found = next((each for each in settings.webhooks if each.name == name), None)
    if found is None:
        names = ", ".join(each.name for each in settings.webhooks) or "none"
        raise CommandFailed(f"the settings name no webhook {name!r}; there are: {names}")
    try:
        return Endpoint.of(found)
    except WebhookError as error:
        raise CommandFailed(str(error)) from error


async def _sent(endpoint: Endpoint, message: Message) -> Attempted:
    async with open_webhook_client() as client:
        return await post(client, endpoint, message)
