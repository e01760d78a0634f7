"""``distill reject`` and ``distill triggers``."""

import rich_click as click

from ledger import approvals
from ledger.store import now_ms
from stillroom.commands.common import actor, as_json, ledger_of, settings_of, show_rows, when

__all__ = ("commands",)


@click.command()
@click.argument("job_id")
@click.option("--why", default="rejected by hand", show_default=True, help="Kept as the job's error.")
@click.pass_context
def reject(context: click.Context, job_id: str, why: str) -> None:
    """End a job that awaits approval; its release never goes live."""
    job = approvals.reject(ledger_of(context), job_id, actor(), why)
    click.echo(f"job {job_id} and release {job.release_id} are rejected")


@click.command()
@as_json
@click.pass_context
def triggers(context: click.Context, as_json: bool) -> None:
    """What starts jobs by itself, how near each is to it, and what holds it back."""
    from distill.triggers import trigger_states

    found = trigger_states(ledger_of(context), settings_of(context).distill.triggers, now_ms())
    rows = [
        {
            "trigger": each.name,
            "state": each.state,
            "value": each.value if as_json else _short(each.value),
            "threshold": each.threshold if as_json else _short(each.threshold),
            "next": when(each.next_at) or None,
            "why": each.why or None,
        }
        for each in found
    ]
    show_rows(rows, as_json, "")


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}" if value < 1 else f"{value:,.0f}"


commands = (reject, triggers)
