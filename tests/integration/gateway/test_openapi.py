"""The OpenAPI document: every route and no other, with the scopes that the guard asks for."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from litestar.routes import HTTPRoute

from gateway import openapi_shapes as shapes
from tests.gateway_fixtures import World

BODYLESS = {"revoke_key", "approve_job", "cancel_job", "promote_release", "rollback_release"} | {
    "stop_canary", "promote_canary", "pin_release", "unpin_release", "retry_delivery", "cancel_batch",
}  # fmt: skip
"""Handlers of POST that read no body."""


@pytest.fixture
def document(world: World) -> dict[str, Any]:
    answer = world.client.get(f"{world.url}/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return answer.json()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_route_is_in_the_document_and_no_other(world: World, document: dict[str, Any]):
    routes = {
        (str(method).lower(), re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)): handler.opt["scope"]
        for route in world.app.routes
        if isinstance(route, HTTPRoute) and not route.path.startswith("/ops")
        for handler in route.route_handlers
        for method in handler.http_methods
        if method != "OPTIONS"
    }
    described = {
        (method, path): operation["security"][0]["key"][0] if operation["security"] else "public"
        for method, path, operation in operations(document)
    }
    assert described == routes
    assert {"/v1/chat/completions", "/v1/feedback", "/admin/v1/keys", "/openapi.json"} <= document["paths"].keys()


def test_every_operation_says_what_it_does_reads_and_answers(document: dict[str, Any]):
    for method, path, operation in operations(document):
        name = operation["operationId"]
        assert operation["summary"], path
        assert ("requestBody" in operation) == (method in ("post", "put", "patch") and name not in BODYLESS), name
        assert name in shapes.RESULTS or name in shapes.TEXTS, name
        assert "default" in operation["responses"]
        described = {p["name"] for p in operation["parameters"] if p.get("in") == "path"}
        assert described == set(re.findall(r"\{(\w+)\}", path)), path


def test_the_shapes_are_of_handlers_that_are_there(document: dict[str, Any]):
    names = Counter(operation["operationId"] for _, _, operation in operations(document))
    assert set(names.values()) == {1}
    tables = (shapes.BODIES, shapes.RESULTS, shapes.STATUS, shapes.TEXTS, shapes.QUERIES, BODYLESS)
    assert {name for table in tables for name in table} <= names.keys()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_every_reference_leads_somewhere_and_every_component_is_used(document: dict[str, Any]):
    found = set(references(document))
    components = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "parameters", "headers", "responses")
        for name in document["components"][kind]
    }
    assert found == components


def test_the_struct_of_a_body_is_its_schema(document: dict[str, Any]):
    schema = document["components"]["schemas"]["NewFeedback"]
    assert schema["required"] == ["request_id"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["score"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 1}
