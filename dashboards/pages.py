"""``/ops``: what the traffic costs and saves, which route it takes and why, releases and jobs."""

import asyncio
import html
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from litestar import Request, Response, get

from ledger import jobs, releases
from ledger.records import NANO
from ledger.requests import Usage, latency_quantile, usage_by
from ledger.store import Store, now_ms

__all__ = ("handlers",)

DAY_MS: Final = 86_400_000
SCOPE: Final = {"scope": "read"}

# the empty icon in place keeps browsers from asking for /favicon.ico
CONTENT_POLICY: Final = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
dl{display:flex;flex-wrap:wrap;gap:1rem}dl div{border:1px solid var(--line);border-radius:.5rem;padding:.6rem 1rem}
dt{font-size:.85rem}dd{margin:0;font-size:1.5rem;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem}
th,td{border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.scroll{overflow-x:auto}
p.empty{background:var(--soft);padding:1rem;border-radius:.5rem}
"""
NO_TRAFFIC: Final = (
    '<p class="empty">No requests in the last 30 days. '
    "Point an OpenAI client at <code>/v1</code> of this address.</p>"
)


@get("/ops", opt=SCOPE)
async def overview(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The overview of the last thirty days."""
    body = await asyncio.to_thread(_overview, request.app.state.store)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Stillroom</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        '<link rel="stylesheet" href="/ops/style.css"></head>'
        f"<body><main><h1>Stillroom</h1>{body}</main></body></html>"
    )
    headers = {"content-security-policy": CONTENT_POLICY, "cache-control": "no-store"}
    return Response(page.encode(), media_type="text/html", headers=headers)


@get("/ops/style.css", opt={"scope": "public"})
async def style() -> Response[str]:
    """The pages' one style sheet."""
    return Response(STYLE, media_type="text/css", headers={"cache-control": "max-age=3600"})


def _overview(store: Store) -> str:
    since = now_ms() - 30 * DAY_MS
    usage = usage_by(store, ["route", "reason"], since)
    return "".join(
        (
            _traffic(store, usage, since) if usage else NO_TRAFFIC,
            "<h2>Releases</h2>",
            _table(("release", "state", "live since", "student agreement", "held out"), _release_rows(store)),
            "<h2>Jobs</h2>",
            _table(("job", "state", "created", "cause"), _job_rows(store)),
        )
    )


def _traffic(store: Store, usage: dict[tuple[Any, ...], Usage], since: int) -> str:
    return "".join(
        (
            _figures(usage),
            "<h2>Routes and reasons, last 30 days</h2>",
            _table(("route", "reason", "requests", "errors", "cost", "baseline"), _route_rows(usage)),
            "<h2>Latency</h2>",
            _table(("route", "p50 ms", "p95 ms"), _latency_rows(store, since)),
        )
    )


def _figures(usage: dict[tuple[Any, ...], Usage]) -> str:
    cost = sum(u.cost_nano for u in usage.values())
    baseline = sum(u.baseline_nano for u in usage.values())
    asked = {key: u for key, u in usage.items() if key[1] != "explore"}
    total = sum(u.requests for u in asked.values())
    student = sum(u.requests for (route, _), u in asked.items() if route == "student")
    figures = (
        ("Spent, 30 days", f"{cost / NANO:,.2f}"),
        ("On the teacher alone", f"{baseline / NANO:,.2f}"),
        ("Saved", f"{1 - cost / baseline:.1%}" if baseline else "-"),
        ("Answered by the student", f"{student / total:.1%}" if total else "-"),
        ("Requests", f"{total:,}"),
    )
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures) + "</dl>"


def _route_rows(usage: dict[tuple[Any, ...], Usage]) -> list[Sequence[Any]]:
    return [
        (route, reason, u.requests, u.errors, f"{u.cost_nano / NANO:,.4f}", f"{u.baseline_nano / NANO:,.4f}")
        for (route, reason), u in sorted(usage.items())
    ]


def _latency_rows(store: Store, since: int) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []
    for route in ("student", "teacher"):
        p50, p95 = (latency_quantile(store, route, q, since) for q in (0.5, 0.95))
        if p50 is not None and p95 is not None:
            rows.append((route, round(p50), round(p95)))
    return rows


def _release_rows(store: Store) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []
    for release in reversed(releases.list_releases(store)):
        low, high = release.summary.get("student_agreement_ci") or (None, None)
        agreement = f"{low:.1%} to {high:.1%}" if low is not None else ""
        rows.append(
            (release.id, release.state, _when(release.promoted_at), agreement, release.summary.get("held_out", ""))
        )
    return rows


def _job_rows(store: Store) -> list[Sequence[Any]]:
    return [(job.id, job.state, _when(job.created_at), job.error or "") for job in jobs.list_jobs(store, 20)]


def _when(milliseconds: int | None) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC") if milliseconds else ""


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return '<p class="empty">Nothing yet.</p>'
    numeric = [isinstance(value, int) or str(value)[:1].isdigit() for value in rows[0]]
    tags = ['<{0} class="n">' if is_number else "<{0}>" for is_number in numeric]
    head = "".join(f"{tag.format('th')}{html.escape(n)}</th>" for tag, n in zip(tags, names, strict=True))
    lines = (
        "".join(f"{tag.format('td')}{html.escape(str(v))}</td>" for tag, v in zip(tags, row, strict=True))
        for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


handlers = [overview, style]
