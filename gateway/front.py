"""The outermost application: what is refused before anything else, and the short way to the busiest endpoints.

Litestar serves every route. A POST to an endpoint that a model answers goes through the same guard, handler and error
answers without the layers in between (docs/performance.md).
"""

from typing import Any, cast

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from gateway.auth import authorise
from gateway.errors import exception_handlers
from gateway.exchange import exchange_of
from gateway.hygiene import refuse_bad_headers

__all__ = ("answer_of_error", "front")

_Request = cast("type[Request[Any, Any, Any]]", Request)
"""Without its type arguments, which a call would be passed through at run time."""


class _ShortRequest(_Request):
    """A request of which little is asked: what Litestar keeps beside scope and channels is made when it is."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = cast("HTTPScope", scope), receive, send

    def __getattr__(self, name: str) -> Any:
        if name not in _Request.__slots__ and name not in ASGIConnection.__slots__:
            raise AttributeError(name)
        super().__init__(self.scope, self.receive, self.send)
        return getattr(self, name)


def front(app: Litestar, max_header_bytes: int) -> ASGIApp:
    """Wrap the application."""
    short = {
        path: handler
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler, HTTPRouteHandler) and handler.opt.get("short_way")
        for path in handler.paths
    }

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        handler = short.get(scope["path"]) if scope["type"] == "http" else None
        if handler is None or cast("HTTPScope", scope)["method"] != "POST":
            await app(scope, receive, send)
            return
        scope["app"] = scope["litestar_app"] = app
        scope["route_handler"] = handler
        scope["path_params"] = {}
        exchange = exchange_of(scope)
        request = _ShortRequest(scope, receive, send)
        try:
            await authorise(request, handler)
            answer = await handler.fn(request)
        except Exception as error:  # noqa: BLE001 the outermost seam, as Litestar's own
            answer = answer_of_error(error, request, app)
        await answer(scope, receive, send if exchange is None else exchange.send)

    return refuse_bad_headers(serve, max_header_bytes)


def answer_of_error(error: Exception, request: Request[Any, Any, Any], app: Litestar) -> ASGIApp:
    """What the client is told of it."""
    handle = next(exception_handlers[kind] for kind in type(error).__mro__ if kind in exception_handlers)
    return handle(request, error).to_asgi_response(app, request)
