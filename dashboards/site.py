"""What the ops pages share: templates, the page around them, static files, CSV, and each answer's strict policy."""

import csv
import hashlib
import io
import mimetypes
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request, Response, get

from dashboards import words
from ledger.keys import Key

__all__ = ("ADMIN", "NAV", "READ", "csv_answer", "fragment", "may_change", "page", "static_file")

READ: Final = {"scope": "read"}
"""``opt`` of a page that shows figures."""
ADMIN: Final = {"scope": "admin"}
"""``opt`` of a page that shows content, or from which something is changed."""

NAV: Final = (
    ("/ops", "Overview"),
    ("/ops/traffic", "Traffic"),
    ("/ops/router", "Router"),
    ("/ops/distillation", "Distillation"),
    ("/ops/releases", "Releases"),
    ("/ops/keys", "Keys"),
    ("/ops/serving", "Serving"),
    ("/ops/audit", "Audit"),
)
FOLDER: Final = Path(__file__).parent
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": CONTENT_POLICY,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def page(
    request: Request[Any, Any, Any], template: str, title: str, status: int = 200, **context: Any
) -> Response[bytes]:
    """A whole page: ``templates/TEMPLATE`` inside ``base.html``."""
    return _answer(request, template, status, title=title, **context)


def fragment(request: Request[Any, Any, Any], template: str, **context: Any) -> Response[bytes]:
    """A part of a page that htmx puts in place: a template of its own, without ``base.html``."""
    return _answer(request, template, 200, title="", **context)


def csv_answer(names: Sequence[str], rows: Iterable[Sequence[Any]], filename: str) -> Response[bytes]:
    """A table as CSV (RFC 4180). A text that a spreadsheet would run as a formula is quoted with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    writer.writerows([_unrunnable(value) for value in row] for row in rows)
    headers = HEADERS | {"content-disposition": f'attachment; filename="{filename}"'}
    return Response(out.getvalue().encode(), media_type="text/csv", headers=headers)


def may_change(request: Request[Any, Any, Any]) -> bool:
    """Whether who looks at the page may change anything: the buttons are shown to them only."""
    if not request.app.state.auth_required:
        return True
    key: Key | None = request.scope["state"].get("key")
    return key is not None and "admin" in key.scopes


@get("/ops/static/{name:path}", opt={"scope": "public"})
async def static_file(name: str) -> Response[bytes]:
    """A style sheet or a script; the same for everyone, and kept by browsers until it changes."""
    found = _static().get(name.lstrip("/"))
    if found is None:
        return Response(b"", status_code=404)
    content, kind, _ = found
    headers = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
    return Response(content, media_type=kind, headers=headers)


def _answer(request: Request[Any, Any, Any], template: str, status: int, **context: Any) -> Response[bytes]:
    text = (
        _environment()
        .get_template(template)
        .render(
            path=request.url.path,
            nav=NAV,
            csrf=request.scope["state"].get("csrf", ""),
            can_change=may_change(request),
            **context,
        )
    )
    return Response(text.encode("utf-8", "replace"), status_code=status, media_type="text/html", headers=HEADERS)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    cast("dict[str, Any]", environment.globals)["static"] = _static_url
    return environment


@cache
def _static() -> dict[str, tuple[bytes, str, str]]:
    """Every file below ``static/`` by its relative name: content, media type, and a hash that changes with it."""
    folder = FOLDER / "static"
    found: dict[str, tuple[bytes, str, str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            kind = mimetypes.guess_type(path.name)[0] or "text/plain"
            found[path.relative_to(folder).as_posix()] = content, kind, hashlib.sha256(content).hexdigest()[:12]
    return found


def _static_url(name: str) -> str:
    found = _static().get(name)
    return f"/ops/static/{name}?{found[2]}" if found else f"/ops/static/{name}"


def _unrunnable(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
