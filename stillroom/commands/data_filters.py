"""The options that narrow what a dataset takes: of `distill data`, and of a job."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import rich_click as click

__all__ = ("filter_options", "given_filters")

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS: Final = {
    "since": click.option("--since", help="Requests from then on: 2026-11-01, a time, or 30d ago."),
    "until": click.option("--until", help="Requests before then."),
    "tags": click.option("--tag", "tags", multiple=True, help="Requests with this tag; may be repeated."),
    "keys": click.option("--key", "keys", multiple=True, help="Requests of this API key's id; may be repeated."),
    "routes": click.option(
        "--route", "routes", multiple=True, type=click.Choice(["student", "teacher"]), help="Who answered."
    ),
    "reasons": click.option("--reason", "reasons", multiple=True, help="Why it was routed there; may be repeated."),
    "finish_reasons": click.option(
        "--finish-reason", "finish_reasons", multiple=True, help="How the answer ended; may be repeated."
    ),
    "min_feedback": click.option(
        "--min-feedback", type=click.FloatRange(0, 1), help="Answers with feedback of at least this score."
    ),
}
"""By the name of the filter in `ledger.request_filters.DatedFilters`."""


def filter_options(command: Command) -> Command:
    """Give a command the options."""
    for option in reversed(OPTIONS.values()):
        command = option(command)
    return command


def given_filters(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the filters that were given."""
    return {name: options[name] for name in OPTIONS if options[name] not in (None, ())}
