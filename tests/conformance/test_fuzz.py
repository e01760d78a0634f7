"""schemathesis against the served OpenAPI document: whatever is sent, no 5xx, and errors in the API's shape.

``STILLROOM_FUZZ_EXAMPLES`` is the number of requests per operation and kind, for a longer hunt than the suite's.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.transport import Response
from schemathesis.schemas import APIOperation

from gateway.app import GatewayConfig
from gateway.settings import EmbeddingsSettings
from ledger import batches, jobs, keys, outbox
from ledger.batches import Batch
from ledger.store import Store, now_ms
from tests.gateway_fixtures import EASY, RELEASE, World, running_world
from tests.scripted_upstream import WAIT_S, Script, ScriptedUpstream

EXAMPLES = int(os.environ.get("STILLROOM_FUZZ_EXAMPLES", "6"))
PREFIXES = ("/v1/", "/admin/")
KINDS = {"application/json", "text/event-stream", "application/octet-stream"}

VECTORS = b'{"object":"list","data":[],"model":"embed","usage":{"prompt_tokens":1,"total_tokens":1}}'
FIELDS = {"model", "request_id", "input_file_id", "release", "accept_without_guarantee", "sure"}
"""Of bodies: what has to fit to what there is, for a request to get through."""
MAY_FAIL = {
    "POST /admin/v1/releases/rollback",
    "POST /admin/v1/releases/{release_id}/promote",
    "POST /admin/v1/canary",
    "POST /admin/v1/canary/promote",
    "POST /admin/v1/canary/stop",
    "POST /admin/v1/jobs/{job_id}/approve",
    "POST /admin/v1/jobs/{job_id}/reject",
    "POST /admin/v1/erasures",
}
"""There is one release, and it is live; no job awaits approval; an erasure names one of four subjects, that is there.
Each has tests of its success elsewhere.
"""

pytestmark = pytest.mark.timeout(60 + 40 * EXAMPLES)


@pytest.fixture(scope="module")
def fuzzed(router, tmp_path_factory) -> Iterator[World]:
    """A world of its own: its keys are revoked and its jobs cancelled at random."""

    def change(config: GatewayConfig) -> GatewayConfig:
        return replace(config, embeddings=EmbeddingsSettings(base_url=vectors.url, model="embed"))

    vectors = ScriptedUpstream()
    vectors.reset(Script(body=VECTORS))
    with contextlib.closing(vectors), running_world(tmp_path_factory.mktemp("fuzz"), router, change) as world:
        world.student.reset(Script(text="The student says good day.", logprob=-0.02))
        world.teacher.reset(Script(text="The teacher says good day."))
        yield world


def known(world: World) -> dict[str, list[Any]]:
    """Path parameters, and other fields, that lead somewhere."""
    request_id = world.chat(EASY).headers["x-request-id"]
    world.row(request_id)
    wanted = {"model": "auto", "input": EASY}
    responses = [
        world.client.post(f"{world.url}/v1/responses", json=wanted, headers=world.headers()).json()["id"]
        for _ in range(3)
    ]
    batches.add(
        world.store,
        Batch("batch_1", now_ms(), key_of(world), "/v1/completions", "file-1", "24h", "cancelled", now_ms()),
    )
    return {
        "file_id": [uploaded(world) for _ in range(3)],
        "input_file_id": [uploaded(world)],
        "batch_id": ["batch_1"],
        "key_id": [keys.create(world.store, "victim", ["inference"], "test")[0].id],
        "job_id": [jobs.create(world.store, "test", "test", {}).id],
        "delivery_id": [delivery(world.store)],
        "release_id": [RELEASE],
        "request_id": [request_id],
        "response_id": responses,
        "name": ["auto", "cheap"],
        "model": ["auto", "student", "teacher", "cheap"],
        "release": [RELEASE],
        "accept_without_guarantee": [True],
        "sure": [2.0],
    }


def key_of(world: World) -> str:
    """The key that asks below ``/v1``."""
    return next(key.id for key in keys.list_keys(world.store) if key.name == "inference-key")


def uploaded(world: World) -> str:
    """The id of a file."""
    sent = {"url": f"{world.url}/v1/files", "data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}\n")}}
    return world.client.post(**sent, headers=world.headers()).json()["id"]


def delivery(store: Store) -> str:
    """The id of one that waits for a receiver."""
    with store.write() as connection:
        outbox.put(connection, "alert.test", "test", {})
    outbox.take_up(store, lambda _kind: ["pager"], now_ms())
    return str(outbox.deliveries(store, limit=1)[0].id)


def served(world: World) -> dict[str, Any]:
    """The document as clients see it, without what is no API."""
    document = world.client.get(f"{world.url}/openapi.json").json()
    document["paths"] = {path: methods for path, methods in document["paths"].items() if path.startswith(PREFIXES)}
    return document


def with_names(node: Any, names: dict[str, list[Any]]) -> Any:
    """The document with names of things that are there where it allows any text."""
    if isinstance(node, list):
        return [with_names(child, names) for child in node]
    if not isinstance(node, dict):
        return node
    node = {name: with_names(child, names) for name, child in node.items()}
    if node.get("in") == "path":
        node["schema"] = {"enum": names[node["name"]]}
    properties = node.get("properties")
    for name in names.keys() & FIELDS:
        if isinstance(properties, dict) and name in properties:
            properties[name] = {"enum": names[name]}
            node["required"] = sorted({*node.get("required", ()), name})
    return node


def shape(operation: APIOperation) -> set[str]:
    """The fields of an error: OpenAI's, or Anthropic's below its path."""
    return {"message", "type"} if operation.path.startswith("/v1/messages") else {"message", "type", "param", "code"}


def problem(operation: APIOperation, answer: Response) -> str | None:
    """What is wrong with an answer."""
    kind = answer.headers.get("content-type", [""])[0].partition(";")[0]
    if answer.status_code >= 500:
        return f"status {answer.status_code}"
    if answer.status_code == 204:
        return None if not answer.content else "status 204 with a body"
    if kind not in KINDS:
        return f"content type {kind!r}"
    if answer.status_code >= 400:
        error = answer.json().get("error") if kind == "application/json" else None
        shaped = isinstance(error, dict) and error["message"] and error.keys() - {"details"} == shape(operation)
        return None if shaped and "x-request-id" in answer.headers else f"error {answer.text[:200]}"
    documented = operation.definition.raw["responses"]
    return None if str(answer.status_code) in documented else f"undocumented status {answer.status_code}"


@dataclass
class Hunt:
    """What came of the requests: statuses by operation, and what was wrong, with a command that shows it."""

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def ask(self, operation: APIOperation, mode: GenerationMode, world: World, session: requests.Session) -> None:
        """Send what this mode makes of an operation."""
        statuses = self.statuses[operation.label] = Counter()
        headers = world.headers("inference" if operation.path.startswith("/v1/") else "admin")

        @settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            derandomize="STILLROOM_FUZZ_EXAMPLES" not in os.environ,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Case) -> None:
            answer = case.call(base_url=world.url, session=session, headers=headers, timeout=WAIT_S)
            statuses[answer.status_code] += 1
            wrong = problem(operation, answer)
            if wrong is not None:
                self.problems.append(f"{wrong}: {case.as_curl_command()[:1000]}")

        send()


def hunt(world: World, document: dict[str, Any], mode: GenerationMode) -> Hunt:
    """Ask every operation of a document, those last that end things."""
    found = Hunt()
    operations = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
    with requests.Session() as session:
        for operation in sorted(
            operations, key=lambda each: each.label.endswith("/revoke") or each.method == "delete"
        ):
            found.ask(operation, mode, world, session)
    assert not found.problems, "\n".join(found.problems)
    return found


def test_what_the_document_allows_is_answered_without_a_fault(fuzzed: World):
    found = hunt(fuzzed, served(fuzzed), GenerationMode.POSITIVE)
    assert len(found.statuses) > 15


def test_requests_of_things_that_are_there_are_answered_without_a_fault_and_get_through(fuzzed: World):
    document = with_names(served(fuzzed), known(fuzzed))
    document["paths"]["/v1/embeddings"] = with_names(document["paths"]["/v1/embeddings"], {"model": ["embed"]})
    found = hunt(fuzzed, document, GenerationMode.POSITIVE)
    never = {
        name: statuses for name, statuses in found.statuses.items() if not any(status < 300 for status in statuses)
    }
    assert never.keys() <= MAY_FAIL, never


def test_what_the_document_does_not_allow_is_refused_in_openais_shape(fuzzed: World):
    found = hunt(fuzzed, served(fuzzed), GenerationMode.NEGATIVE)
    refused = sum(n for statuses in found.statuses.values() for status, n in statuses.items() if status >= 400)
    assert refused > sum(statuses.total() for statuses in found.statuses.values()) / 3


def test_nothing_was_broken_by_the_hunt(fuzzed: World):
    assert fuzzed.chat(EASY).status_code == 200
    assert msgspec.json.decode(fuzzed.get("/readyz").content) == {"status": "ready"}
