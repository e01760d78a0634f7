"""``keys create|list|show|update|rotate|revoke``."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
import rich_click as click

from ledger import keys
from ledger.keys import Key
from ledger.policies import FIELDS, expiry, policy_of
from stillroom.commands.common import actor, as_json, ledger_of, show_rows, when

__all__ = ("group",)

Command = TypeVar("Command", bound=Callable[..., Any])

POLICY_OPTIONS: Final = (
    click.option("--owner", help="Who answers for the key."),
    click.option("--tag", "tags", multiple=True, help="Added to every request's tags; may be given more than once."),
    click.option("--model", "models", multiple=True, help="A model name that it may send; all if none is given."),
    click.option("--route", "routes", multiple=True, help="student or teacher; both if none is given."),
    click.option("--default-route", help="What `auto` means for it: auto, student or teacher."),
    click.option("--rpm", "requests_per_minute", type=int, help="Requests per minute; 0 for no limit."),
    click.option("--tpm", "tokens_per_minute", type=int, help="Tokens per minute; 0 for no limit."),
    click.option("--concurrent", "max_concurrent", type=int, help="Requests at once, in each gateway process."),
    click.option("--budget-day", type=float, help="Spend of a day (UTC), in currency units."),
    click.option("--budget-month", type=float, help="Spend of a month (UTC), in currency units."),
    click.option("--soft/--hard", "soft", default=None, help="Past a budget: the student answers, or nobody."),
    click.option("--log/--no-log", "log_content", default=None, help="Whether the content of requests is kept."),
)


def policy_options(command: Command) -> Command:
    """The options that set a key's policy."""
    for option in reversed(POLICY_OPTIONS):
        command = option(command)
    return command


def _policy(options: dict[str, Any]) -> dict[str, Any]:
    """The fields that options set."""
    soft = options.pop("soft")
    kind = None if soft is None else ("soft" if soft else "hard")
    given = options | {"budget_kind": kind}
    return {name: value for name, value in given.items() if value is not None and value != ()}


def _print(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


@click.group("keys")
def group() -> None:
    """API keys of the gateway."""


@group.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, default=("inference",), show_default=True,
              help="inference, read or admin; may be given more than once.")  # fmt: skip
@click.option("--expires", help="Until when it works: as in 2030-01-31T12:00:00Z, or seconds since 1970.")
@policy_options
@as_json
@click.pass_context
def create(
    context: click.Context, name: str, scopes: tuple[str, ...], expires: str | None, as_json: bool, **options: Any
) -> None:
    """Make a key and print it. It is shown this once."""
    policy = policy_of(_policy(options))
    until = None if expires is None else expiry(expires)
    key, secret = keys.create(ledger_of(context), name, scopes, actor(), until, policy=policy)
    _show_secret(key, secret, as_json)


@group.command("list")
@as_json
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """All keys, without their secrets."""
    rows = [_row(key) for key in keys.list_keys(ledger_of(context))]
    show_rows(rows, as_json, "no keys yet; make one with `stillroom keys create NAME`")


@group.command()
@click.argument("id_or_name")
@as_json
@click.pass_context
def show(context: click.Context, id_or_name: str, as_json: bool) -> None:
    """A key's policy, and what it spent today and this month (UTC)."""
    store = ledger_of(context)
    key = keys.get(store, id_or_name)
    from gateway.keys_api import spend_of

    spend = spend_of(store, key)
    if as_json:
        _print({"key": key, "spend": spend})
        return
    rows: dict[str, Any] = _row(key) | {"expires": when(key.expires_at)} | msgspec.to_builtins(key.policy)
    for period, money in spend.items():
        left = "" if money["remaining"] is None else f", {money['remaining']:.6g} of {money['budget']:.6g} left"
        rows[f"spent this {period}"] = f"{money['spent']:.6g}{left}"
    show_rows(
        [{"": name, "value": _text(value)} for name, value in rows.items() if value not in ("", None)], False, ""
    )


@group.command()
@click.argument("id_or_name")
@policy_options
@click.option("--unset", multiple=True, type=click.Choice(FIELDS), help="A field of the policy to set back.")
@as_json
@click.pass_context
def update(context: click.Context, id_or_name: str, unset: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Change a key's policy. Gateways follow within a second."""
    changes = dict.fromkeys(unset) | _policy(options)
    if not changes:
        raise click.UsageError("Nothing to change was given.", context)
    key = keys.update_policy(ledger_of(context), id_or_name, changes, actor())
    if as_json:
        _print(key)
        return
    click.echo(f"updated {key.id} ({key.name})")


@group.command()
@click.argument("id_or_name")
@click.option("--overlap", type=float, default=3600.0, show_default=True,
              help="Seconds for which the old secret works beside the new one.")  # fmt: skip
@as_json
@click.pass_context
def rotate(context: click.Context, id_or_name: str, overlap: float, as_json: bool) -> None:
    """Give a key a new secret and print it. It is shown this once."""
    key, secret = keys.rotate(ledger_of(context), id_or_name, overlap, actor())
    _show_secret(key, secret, as_json)


@group.command()
@click.argument("id_or_name")
@click.pass_context
def revoke(context: click.Context, id_or_name: str) -> None:
    """Revoke a key, by id or unique name. Gateways stop taking it within a second."""
    key = keys.revoke(ledger_of(context), id_or_name, actor())
    click.echo(f"revoked {key.id} ({key.name})")


def _show_secret(key: Key, secret: str, to_json: bool) -> None:
    if to_json:
        _print({"key": key, "secret": secret})
    else:
        click.echo(secret)


def _row(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "owner": key.policy.owner or "",
        "ends in": key.last4,
        "scopes": " ".join(key.scopes),
        "created": when(key.created_at),
        "revoked": when(key.revoked_at),
    }


def _text(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value
