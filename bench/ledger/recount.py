"""The rollups counted anew from the requests, as plainly as can be: what the ledger's incremental sums must equal."""

import bisect
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from ledger import schema
from ledger.records import IMPORTED
from ledger.rollups import DAY_MS, HOUR_MS, LATENCY_BUCKETS_MS
from ledger.store import Store

__all__ = ("differences", "kept", "recounted", "total_differences")

SUMS: Final = ("requests", "errors", "prompt_tokens", "completion_tokens", "cost_nano", "baseline_nano")

Sums = dict[tuple[Any, ...], tuple[int, ...]]


def differences(store: Store, since: int, until: int) -> list[str]:
    """Rows of the rollups of these days that are not what a recount gives; ms at the beginning of a day each."""
    own, true = kept(store, since, until), recounted(store, since, until)
    return [
        f"{key}: {own.get(key)} and not {true.get(key)}"
        for key in own.keys() | true.keys()
        if own.get(key) != true.get(key)
    ]


def total_differences(store: Store) -> list[str]:
    """Sums of all days, by route, where one of the tables of rollups says another than the requests do."""
    hourly, by, asked = schema.usage_hourly, schema.usage_rollups, schema.requests
    true = _by_route(store, asked.c.route, dict(zip(SUMS, _amounts(), strict=True)))
    steps = ((by.c.dimension == "reason") & (by.c.step_ms == step) for step in (HOUR_MS, DAY_MS))
    told = {"usage_hourly": _by_route(store, hourly.c.route, {name: hourly.c[name] for name in SUMS})}
    told |= {
        f"usage_rollups by {name}": _by_route(store, by.c.route, {sums: by.c[sums] for sums in SUMS}, step)
        for name, step in zip(("hour", "day"), steps, strict=True)
    }
    return [f"{table}: {sums} and not {true}" for table, sums in told.items() if sums != true]


def _by_route(
    store: Store, route: sa.ColumnElement[str], amounts: Mapping[str, Any], where: Any = None
) -> dict[str, tuple[int, ...]]:
    statement = sa.select(route, *(sa.func.sum(amount) for amount in amounts.values())).group_by(route)
    with store.read() as connection:
        rows = connection.execute(statement if where is None else statement.where(where)).all()
    return {row[0]: tuple(int(each) for each in row[1:]) for row in rows}


def _amounts() -> list[sa.ColumnElement[int]]:
    """Of a request, as `SUMS` names them."""
    row = schema.requests.c
    return [
        sa.literal(1),
        sa.case((row.status >= 400, 1), else_=0),
        row.prompt_tokens + row.attempt_prompt_tokens,
        row.completion_tokens + row.attempt_completion_tokens,
        row.cost_nano,
        row.baseline_nano,
    ]


def kept(store: Store, since: int, until: int) -> Sums:
    """What the tables of rollups say, by the table's name and its key."""
    found: Sums = {}
    with store.read() as connection:
        for table in (schema.usage_hourly, schema.usage_rollups, schema.latency_hourly, schema.first_token_hourly):
            at = table.c.at if table is schema.usage_rollups else table.c.hour
            size = len(table.primary_key)
            for row in connection.execute(sa.select(table).where(at >= since, at < until)):
                found[table.name, *row[:size]] = tuple(int(value) for value in row[size:])
    return found


def recounted(store: Store, since: int, until: int) -> Sums:
    """The same from the requests, one at a time."""
    counts: dict[tuple[Any, ...], Counter[str]] = {}
    table = schema.requests
    asked = sa.select(table).where(table.c.created_at >= since, table.c.created_at < until)
    with store.read() as connection:
        for row in connection.execution_options(yield_per=1_000).execute(asked):
            amounts = {
                "requests": 1,
                "errors": 1 if row.status >= 400 else 0,
                "prompt_tokens": row.prompt_tokens + row.attempt_prompt_tokens,
                "completion_tokens": row.completion_tokens + row.attempt_completion_tokens,
                "cost_nano": row.cost_nano,
                "baseline_nano": row.baseline_nano,
            }
            for key in _usage_keys(row):
                counts.setdefault(key, Counter()).update(amounts)
            for key in _timing_keys(row):
                counts.setdefault(key, Counter()).update(requests=1)
    return {
        key: tuple(sums[name] for name in (SUMS if key[0].startswith("usage") else SUMS[:1]))
        for key, sums in counts.items()
    }


def _usage_keys(row: Any) -> list[tuple[Any, ...]]:
    hour, day = row.created_at // HOUR_MS * HOUR_MS, row.created_at // DAY_MS * DAY_MS
    key_id = row.key_id if row.key_id is not None and row.reason != IMPORTED else ""
    tags = row.tags if isinstance(row.tags, list) else json.loads(row.tags)
    own = [tag.replace("\0", "")[:200] for tag in tags if not tag.startswith("replay-of:")]
    values = [("reason", row.reason), ("release_id", row.release_id or ""), ("key_id", key_id), ("model", row.model)]
    values += [("tag", tag) for tag in dict.fromkeys(own or [""])]
    found: list[tuple[Any, ...]] = [("usage_hourly", hour, row.route, row.reason, row.release_id or "", key_id)]
    for dimension, value in values:
        found.append(("usage_rollups", dimension, HOUR_MS, hour, row.route, value))
        found.append(("usage_rollups", dimension, DAY_MS, day, row.route, value))
    return found


def _timing_keys(row: Any) -> list[tuple[Any, ...]]:
    if row.reason == IMPORTED:
        return []
    hour = row.created_at // HOUR_MS * HOUR_MS
    found = [("latency_hourly", hour, row.route, _bucket(row.latency_ms))]
    if row.first_token_ms is not None:
        found.append(("first_token_hourly", hour, row.route, _bucket(row.first_token_ms)))
    return found


def _bucket(ms: float) -> int:
    return [*LATENCY_BUCKETS_MS, LATENCY_BUCKETS_MS[-1]][bisect.bisect_left(LATENCY_BUCKETS_MS, ms)]
