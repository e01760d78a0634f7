"""``/openapi.json``: an OpenAPI 3.1 document of every handler but the pages, built from the routes themselves.

Paths, scopes and texts are the handlers' own; what they read and answer is in `gateway.openapi_shapes`.
"""

import importlib.metadata
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from gateway import openapi_models as models
from gateway import openapi_shapes as shapes
from gateway.auth import PUBLIC, opt
from gateway.messages.errors import speaks_anthropic

__all__ = ("document", "openapi_document", "operations")

PAGES: Final = "/ops"
PARAMETER: Final = re.compile(r"\{(\w+):\w+\}")
JSON: Final = "application/json"
ABOUT: Final = (
    "An OpenAI-compatible gateway that moves traffic from a frontier model to a distilled student. Below /v1 "
    "requests and answers are OpenAI's and unknown fields pass through; errors have OpenAI's shape. Below "
    "/v1/messages all of it is Anthropic's."
)


@get("/openapi.json", opt=opt(PUBLIC))
async def openapi_document(request: Request[Any, Any, Any]) -> Response[bytes]:
    """This document."""
    state = request.app.state
    if state.get("openapi") is None:
        state.openapi = msgspec.json.encode(document(request.app))
    return Response(state.openapi, media_type=JSON)


def operations(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    """(method, path, handler) of every route but the pages, path parameters as in ``{key_id:str}``."""
    for route in app.routes:
        if isinstance(route, HTTPRoute) and not route.path.startswith(PAGES):
            # the router itself keeps them in no order
            handlers = {method: handler for handler in route.route_handlers for method in handler.http_methods}
            for method in sorted(handlers.keys() - {"OPTIONS"}):
                yield str(method), route.path, handlers[method]


def document(app: Litestar) -> dict[str, Any]:
    """The document of this application's routes."""
    paths: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for method, path, handler in operations(app):
        operation = _operation(handler, PARAMETER.findall(path))
        error = "ErrorOfAnthropic" if speaks_anthropic(path) else "Error"
        operation["responses"]["default"] = {"$ref": f"#/components/responses/{error}"}
        paths[PARAMETER.sub(r"{\1}", path)][method.lower()] = operation
    _, components = msgspec.json.schema_components(shapes.TYPES, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stillroom", "version": importlib.metadata.version("stillroom"), "description": ABOUT},
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": models.SCHEMAS | components,
            "parameters": shapes.PARAMETERS,
            "headers": shapes.HEADERS,
            "responses": {
                "Error": {"description": "OpenAI's error object.", "content": _json(models.ref("Error"))},
                "ErrorOfAnthropic": {
                    "description": "Anthropic's error object.",
                    "content": _json(models.ref("ErrorOfAnthropic")),
                },
            },
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A Stillroom API key; it may be sent as `x-api-key` too.",
                }
            },
        },
    }


def _operation(handler: HTTPRouteHandler, path_parameters: list[str]) -> dict[str, Any]:
    name, scope = handler.handler_name, handler.opt.get("scope")
    summary, _, description = inspect.cleandoc(handler.fn.__doc__ or "").partition("\n\n")
    parameters: list[dict[str, Any]] = [
        {"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}
        for parameter in path_parameters
    ]
    parameters += [{"name": q, "in": "query", "schema": of} for q, of in shapes.QUERIES.get(name, {}).items()]
    if name in shapes.MODEL_ANSWERED:
        parameters += [{"$ref": f"#/components/parameters/{header}"} for header in shapes.PARAMETERS]
    content = _json(shapes.BODIES[name]) if name in shapes.BODIES else {}
    if name in shapes.FORMS:
        content = {"multipart/form-data": {"schema": shapes.FORMS[name]}}
    body = {"requestBody": {"required": True, "content": content}} if content else {}
    return {
        "operationId": name,
        "summary": " ".join(summary.split()),
        "description": " ".join(description.split()),
        # OpenAPI 3.1 lets a bearer scheme name the role that is needed
        "security": [] if scope == PUBLIC else [{"key": [scope]}],
        "parameters": parameters,
        **body,
        "responses": {str(shapes.STATUS.get(name, 200)): _success(name)},
    }


def _success(name: str) -> dict[str, Any]:
    if name in shapes.TEXTS:
        return {"description": "Done.", "content": {shapes.TEXTS[name]: {"schema": {"type": "string"}}}}
    content = _json(shapes.RESULTS.get(name, {}))
    if name not in shapes.MODEL_ANSWERED:
        return {"description": "Done.", "content": content}
    headers = {header: {"$ref": f"#/components/headers/{header}"} for header in shapes.HEADERS}
    if name in shapes.STREAMED:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": "The model's answer.", "headers": headers, "content": content}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {JSON: {"schema": schema}}
