"""``keys create|list|revoke``."""

import rich_click as click

from ledger import keys
from stillroom.commands.common import actor, as_json, ledger_of, show_rows, when

__all__ = ("group",)


@click.group("keys")
def group() -> None:
    """API keys of the gateway."""


@group.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, default=("inference",), show_default=True,
              help="inference, read or admin; may be given more than once.")  # fmt: skip
@click.pass_context
def create(context: click.Context, name: str, scopes: tuple[str, ...]) -> None:
    """Make a key and print it. It is shown this once."""
    _, secret = keys.create(ledger_of(context), name, scopes, actor())
    click.echo(secret)


@group.command("list")
@as_json
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """All keys, without their secrets."""
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "ends in": key.last4,
            "scopes": " ".join(key.scopes),
            "created": when(key.created_at),
            "revoked": when(key.revoked_at),
        }
        for key in keys.list_keys(ledger_of(context))
    ]
    show_rows(rows, as_json, "no keys yet; make one with `stillroom keys create NAME`")


@group.command()
@click.argument("id_or_name")
@click.pass_context
def revoke(context: click.Context, id_or_name: str) -> None:
    """Revoke a key, by id or unique name. Gateways stop taking it within a second."""
    key = keys.revoke(ledger_of(context), id_or_name, actor())
    click.echo(f"revoked {key.id} ({key.name})")
