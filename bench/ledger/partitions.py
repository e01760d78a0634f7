"""``python -m bench.ledger.partitions --rows 10000000 --kind plain``: requests on PostgreSQL, in partitions or not.

``plain`` is the ledger's own table. ``time`` has a partition for each week by ``created_at``, and the primary key
``(id, created_at)``; ``id`` has one by the id, which begins with the time, and the primary key that there is. The
ledger's own code inserts and reads, unchanged. Each kind is filled by SQL, in a server of its own: 10,000,000 rows
take some 6 GB. The server does not wait for its disk, so that CPU time tells, on a machine that others use, and
no other seconds. Prints Markdown, and writes ``var/bench/partitions-KIND.json``.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from bench.gateway import machine
from bench.ledger.filling import batches
from bench.ledger.server import Figures, Spent, server
from bench.ledger.traffic import DAYS, KEYS, traffic
from ledger import explorer, schema
from ledger.explorer import Filters, Place, Wanted
from ledger.records import RequestRecord
from ledger.requests import insert_records
from ledger.rollups import DAY_MS
from ledger.store import Store, now_ms, open_store

WORK: Final = Path("var/bench").resolve()
WEEK_MS: Final = 7 * DAY_MS
INSERTED: Final = 20_000
AT_ONCE: Final = 500
DELETED_AT_ONCE: Final = 1_000
TIMES: Final = 100
KEYS_OF: Final = {"time": "(id, created_at)", "id": "(id)"}
COLUMNS: Final = {"time": "created_at", "id": "id"}


def main() -> None:
    """Fill a table of one kind, and measure it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="requests")
    parser.add_argument("--kind", choices=("plain", *COLUMNS), required=True)
    asked = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    begins = now_ms() // DAY_MS * DAY_MS - DAYS * DAY_MS
    newest = _newest()
    found: Figures = {"kind": asked.kind, "rows": asked.rows, "machine": machine.describe()}
    with server("fsync=off") as running, running.database() as url:
        store, spent = open_store(url), Spent(running)
        if asked.kind != "plain":
            _command(store, *_partitioned(asked.kind, begins))
        steps: dict[str, Callable[[], object]] = {
            "fill": lambda: _fill(store, asked.rows, begins),
            "analyse": lambda: _command(store, "ANALYZE"),
            "insert of 20,000": lambda: _insert(store, newest),
            "sums of a day": lambda: _sums(store, begins + DAYS // 2 * DAY_MS),
        }
        for name, call in steps.items():
            found |= _said(spent.on(name, call))
        found |= _said(_pages(store, spent))
        expire = _drop if asked.kind != "plain" else _delete
        found |= _said(spent.on("expiry of a week", lambda: expire(store, begins)))
        found |= _said(spent.on("vacuum after it", lambda: _command(store, "VACUUM requests")))
        found["bytes"] = _bytes(store)
        store.close()
    (WORK / f"partitions-{asked.kind}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n| {asked.kind}, {asked.rows:,} rows | |\n|---|---:|")
    print("\n".join(f"| {name} | {value:,.6g} |" for name, value in found.items() if isinstance(value, int | float)))


def _said(figures: Figures) -> Figures:
    print(f"- {', '.join(f'{name} {value:,.4g}' for name, value in figures.items())}", flush=True)
    return figures


def _partitioned(kind: str, begins: int) -> list[str]:
    """The ledger's table, empty, made anew in weeks from a time (ms) on, and what is in none of them."""
    table, column = schema.requests, COLUMNS[kind]
    made = [
        "DROP TABLE requests",
        f"CREATE TABLE requests ({_columns()}) PARTITION BY RANGE ({column})",
        f"ALTER TABLE requests ADD PRIMARY KEY {KEYS_OF[kind]}",
        "CREATE TABLE requests_others PARTITION OF requests DEFAULT",
    ]
    for number, since in enumerate(range(begins, begins + (DAYS + 14) * DAY_MS, WEEK_MS)):
        ends = [_bound(kind, at) for at in (since, since + WEEK_MS)]
        made.append(
            f"CREATE TABLE requests_{number} PARTITION OF requests FOR VALUES FROM ({ends[0]}) TO ({ends[1]})"
        )
    dialect = sa.dialects.postgresql.dialect()
    made += [str(sa.schema.CreateIndex(index).compile(dialect=dialect)) for index in table.indexes]
    return made


def _columns() -> str:
    """As PostgreSQL writes them; ids are compared by their bytes, which is the order of time."""
    dialect = sa.dialects.postgresql.dialect()
    others = [column for column in schema.requests.columns if column.name != "id"]
    return 'id varchar(64) COLLATE "C" NOT NULL, ' + ", ".join(
        f"{column.name} {column.type.compile(dialect)}{'' if column.nullable else ' NOT NULL'}" for column in others
    )


def _bound(kind: str, at: int) -> str:
    return str(at) if kind == "time" else f"'req_{at:011x}'"


def _fill(store: Store, rows: int, begins: int) -> None:
    """A day at a time, as they would have come."""
    each = rows // DAYS
    for day in range(DAYS):
        _command(store, FILL.format(rows=each, begins=begins + day * DAY_MS, every=DAY_MS / each, keys=len(KEYS)))


VALUES: Final = {
    "id": "'req_' || lpad(to_hex(at), 11, '0') || substr(md5(at::text || n::text), 1, 13)",
    "created_at": "at",
    "key_id": "'key_' || lpad((n % {keys})::text, 2, '0')",
    "endpoint": "'chat'",
    "model": "(ARRAY['auto', 'auto', 'gpt-4o', 'gpt-4o-mini'])[1 + n % 4]",
    "route": "(ARRAY['student', 'teacher'])[1 + n % 2]",
    "reason": "(ARRAY['confident', 'hard'])[1 + n % 2]",
    "release_id": "'r' || n % 3",
    "score": "random()",
    "propensity": "1",
    "status": "CASE WHEN n % 100 = 0 THEN 500 ELSE 200 END",
    "finish_reason": "'stop'",
    "stream": "n % 3 = 0",
    "prompt_tokens": "300 + n % 100",
    "completion_tokens": "120 + n % 50",
    "cached_tokens": "0",
    "attempt_prompt_tokens": "0",
    "attempt_completion_tokens": "0",
    "cost_nano": "70000 + n % 1000",
    "baseline_nano": "1950000",
    "latency_ms": "400 + n % 999",
    "first_token_ms": "80 + n % 99",
    "tags": """'["team-1", "batch"]'""",
    "trainable": "true",
}
"""Of a row that is the n-th of its day."""
FILL: Final = f"""
INSERT INTO requests ({", ".join(VALUES)}) SELECT {", ".join(VALUES.values())}
FROM (SELECT n, {{begins}} + (n * {{every}})::bigint AS at FROM generate_series(0, {{rows}} - 1) AS n) AS rows
"""


def _newest() -> list[list[RequestRecord]]:
    records = itertools.islice(traffic(INSERTED * DAYS * 2, now_ms() - DAY_MS), INSERTED)
    return list(batches((msgspec.structs.replace(record, content=None) for record in records), AT_ONCE))


def _insert(store: Store, newest: list[list[RequestRecord]]) -> None:
    """As a gateway's process moves them from its spool."""
    for some in newest:
        insert_records(store, some)


def _sums(store: Store, since: int) -> None:
    """Of a day's rows, which only a recount reads: pages have sums."""
    table = schema.requests
    of_day = sa.and_(table.c.created_at >= since, table.c.created_at < since + DAY_MS)
    sums = sa.select(table.c.route, sa.func.count(), sa.func.sum(table.c.cost_nano)).where(of_day)
    with store.read() as connection:
        connection.execute(sums.group_by(table.c.route)).all()


def _pages(store: Store, spent: Spent) -> Figures:
    """Milliseconds of the server's processors for each page of the explorer."""
    middle = Place(now_ms() - DAYS * DAY_MS // 2, "")
    with store.read() as connection:
        some = connection.execute(sa.select(schema.requests.c.id).limit(1)).scalar_one()
    pages = {
        "page, newest": (Filters(), Wanted()),
        "page, from the middle": (Filters(), Wanted(middle)),
        "page, route from the middle": (Filters(route="student"), Wanted(middle)),
        "page, a key from the middle": (Filters(key=KEYS[-1]), Wanted(middle)),
        "page, one id": (Filters(id=some), Wanted()),
    }
    found: Figures = {}
    for name, asked in pages.items():
        took = spent.on("page", lambda asked=asked: [explorer.page(store, *asked) for _ in range(TIMES)])
        found[f"{name}, server_cpu_ms"] = took["page_server_cpu"] / TIMES * 1000
    return found


def _delete(store: Store, begins: int) -> None:
    """In small transactions, so that others write between them."""
    table = schema.requests
    old = sa.select(table.c.id).where(table.c.created_at < begins + WEEK_MS).order_by(table.c.created_at)
    last = DELETED_AT_ONCE
    while last == DELETED_AT_ONCE:
        with store.write(None) as connection:
            gone = sa.delete(table).where(table.c.id.in_(old.limit(DELETED_AT_ONCE)))
            last = int(connection.execute(gone).rowcount)


def _drop(store: Store, _begins: int) -> None:
    _command(store, "DROP TABLE requests_0")


def _bytes(store: Store) -> int:
    with store.read() as connection:
        return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())


def _command(store: Store, *statements: str) -> None:
    engine = store.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


if __name__ == "__main__":
    main()
