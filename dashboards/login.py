"""``/ops/login``: where a browser's session begins. The form goes to ``/ops/session``."""

from typing import Any, Final

from litestar import Request, Response, get

from dashboards.site import page

__all__ = ("login",)

REFUSED: Final = {
    "key": "There is no such key, or it has expired or was revoked.",
    "scope": "This key may not see these pages: it needs the scope read or admin.",
}


@get("/ops/login", opt={"scope": "public"})
async def login(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The form."""
    query = request.query_params
    return page(
        request,
        "login.html",
        "Log in",
        refused=REFUSED.get(query.get("refused", "")),
        target=query.get("next", "/ops"),
    )
