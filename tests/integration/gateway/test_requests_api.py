"""``/admin/v1/requests`` over a socket: the list, reading one, feedback by an admin, and deleting what one says."""

from typing import Any

import httpx
import pytest

from ledger import audit, datasets, feedback, labels, responses
from ledger.labels import Label
from ledger.requests import get, insert_records
from ledger.store import now_ms
from tests.gateway_fixtures import EASY, HARD, RELEASE, UNSURE, World, wait_until
from tests.scripted_upstream import Script
from tests.unit.ledger.rows import row
from tests.unit.ledger.test_datasets import dataset


def listed(world: World, scope: str = "read", **query: Any) -> list[str]:
    return [each["id"] for each in page(world, scope, **query)["data"]]


def page(world: World, scope: str = "read", **query: Any) -> dict[str, Any]:
    answer = world.client.get(f"{world.url}/admin/v1/requests", params=query, headers=world.headers(scope))
    assert answer.status_code == 200, answer.text
    return answer.json()


def change(world: World, method: str, path: str, body: Any = None, scope: str = "admin") -> httpx.Response:
    kwargs = {} if body is None else {"json": body}
    return world.client.request(
        method, f"{world.url}/admin/v1/requests/{path}", headers=world.headers(scope), **kwargs
    )


def asked(world: World, text: str = HARD, **fields: Any) -> str:
    request_id = world.chat(text, **fields).headers["x-request-id"]
    assert world.recorded(request_id)[1] is not None
    return request_id


def test_requests_are_listed_newest_first_page_by_page_without_content(world: World):
    ids = [asked(world) for _ in range(3)]
    first = page(world, limit=2)
    assert [each["id"] for each in first["data"]] == ids[:0:-1]
    assert listed(world, limit=2, before=first["next"])[0] == ids[0]
    assert "content" not in first["data"][0]
    assert first["data"][0]["cost_nano"] > 0


def test_requests_are_filtered_as_asked(world: World):
    since = now_ms()
    easy, hard = asked(world, EASY), asked(world, HARD, headers={"x-stillroom-tags": "shop"})
    new = {"since": since}
    assert listed(world, **new) == [hard, easy]
    assert listed(world, **new, route="student") == listed(world, **new, reason="confident", status="ok") == [easy]
    assert listed(world, **new, tag="shop") == listed(world, **new, score_max=0.5) == [hard]
    assert listed(world, **new, release=RELEASE, model="auto", finish="stop") == [hard, easy]
    assert listed(world, id=easy) == [easy]
    assert listed(world, **new, key="key_none") == []


def test_searching_what_was_said_takes_an_admin_and_is_in_the_audit(world: World):
    request_id = asked(world, f"{HARD} about a zeppelin")
    assert listed(world, "admin", text="ZEPPELIN") == [request_id]
    assert audit.entries(world.store, 1)[0]["action"] == "content.search"
    refused = world.client.get(
        f"{world.url}/admin/v1/requests", params={"text": "zeppelin"}, headers=world.headers("read")
    )
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "text")


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"before": "x"}, {"route": "auto"}, {"since": "x"}, {"status": "4xx"}]
)
def test_a_parameter_that_cannot_be_read_is_named(module_world: World, query: dict[str, Any]):
    answer = module_world.client.get(
        f"{module_world.url}/admin/v1/requests", params=query, headers=module_world.headers("read")
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


def test_a_search_that_is_cut_short_says_how_far_it_looked(world: World):
    insert_records(world.store, [row(f"bulk{i}", created_at=1 + i, content=None) for i in range(5)])
    found = page(world, "admin", text="nothing says this")
    assert found["looked"] >= 5
    assert found["next"] is None


def test_reading_a_request_is_in_the_audit_where_there_is_something_to_read(world: World):
    request_id = asked(world)
    assert world.get(f"/admin/v1/requests/{request_id}").json()["content"]["messages"]
    (entry,) = audit.entries(world.store, 1)
    assert (entry["action"], entry["subject"]) == ("content.read", f"request:{request_id}")
    assert entry["actor"].startswith("key_")
    silent = world.chat(headers={"x-stillroom-log": "off"}).headers["x-request-id"]
    world.recorded(silent)
    assert world.get(f"/admin/v1/requests/{silent}").json()["content"] is None
    assert audit.entries(world.store, 1) == [entry]


def test_the_students_tokens_are_kept_with_their_certainty_whoever_answered(world: World):
    world.student.script = Script(text="The student says good day.", logprob=UNSURE)
    request_id = asked(world, EASY)
    shown = world.get(f"/admin/v1/requests/{request_id}").json()
    assert (shown["request"]["reason"], shown["content"]["student_answer"]) == (
        "low_confidence",
        "The student says good day.",
    )
    assert shown["content"]["student_tokens"] == [
        [token, int(UNSURE * 1_000)] for token in world.student.script.tokens
    ]
    assert "student_tokens" not in world.get(f"/admin/v1/requests/{asked(world, HARD)}").json()["content"]


def test_what_was_asked_beside_a_request_is_shown_with_it(world: World):
    insert_records(world.store, [row("beside_1"), row("beside_1-explore", reason="explore"), row("beside_1-else")])
    shown = world.get("/admin/v1/requests/beside_1").json()
    assert [each["request"]["id"] for each in shown["beside"]] == ["beside_1-explore"]
    assert shown["beside"][0]["content"]["answer"] == "answer beside_1-explore"


def test_an_admin_says_what_an_answer_should_have_been(world: World):
    request_id = asked(world)
    answer = change(world, "POST", f"{request_id}/feedback", {"score": 0.25, "correction": "Good day."})
    assert answer.status_code == 201
    assert (answer.json()["score"], answer.json()["correction"]) == (0.25, "Good day.")
    (kept,) = feedback.of_request(world.store, request_id)
    assert kept.correction == "Good day."
    (entry,) = audit.entries(world.store, 1)
    assert (entry["action"], entry["detail"]) == ("feedback.add", {"kept": ["score", "correction"]})


@pytest.mark.parametrize(
    "body", [{}, {"score": 2}, {"score": "1"}, {"request_id": "x", "score": 1}, {"comment": " "}]
)
def test_feedback_that_says_nothing_or_cannot_be_read_is_refused(world: World, body: dict[str, Any]):
    assert change(world, "POST", f"{asked(world)}/feedback", body).status_code == 400


def test_deleting_what_a_request_says_leaves_its_row_and_names_who_holds_a_copy(world: World):
    request_id = asked(world)
    before = world.row(request_id)
    datasets.add(world.store, dataset(f"d_{request_id}"), [(request_id, False)])
    feedback.add(
        world.store, feedback.Feedback(id="", created_at=0, request_id=request_id, score=0, comment="no"), None, True
    )
    labels.add(world.store, [Label(
        request_id=request_id, source="feedback", created_at=1, release_id=None, comparator="x", agreement=0,
        propensity=1,
    )])  # fmt: skip
    done = change(world, "DELETE", f"{request_id}/content")
    assert done.status_code == 200
    assert (done.json()["contents"], done.json()["feedback"]) == (1, 1)
    assert [held["id"] for held in done.json()["holders"]["datasets"]] == [f"d_{request_id}"]
    row_, content = get(world.store, request_id) or ({}, None)
    assert (row_, content) == (before, None)
    (said,) = feedback.of_request(world.store, request_id)
    assert (said.score, said.comment) == (0, None)
    assert len(labels.of_request(world.store, request_id)) == 1
    actions = [entry["action"] for entry in audit.entries(world.store, 2)]
    assert actions == ["content.erased", "content.erase"]
    assert change(world, "DELETE", f"{request_id}/content").json()["contents"] == 0


def test_deleting_what_a_request_says_deletes_the_response_that_was_kept_of_it(world: World):
    body = {"model": "teacher", "input": "Please say good day."}
    answer = world.client.post(f"{world.url}/v1/responses", json=body, headers=world.headers())
    response_id = answer.json()["id"]
    wait_until(lambda: responses.get(world.store, response_id) is not None)
    request_id = answer.headers["x-request-id"]
    world.recorded(request_id)
    assert change(world, "DELETE", f"{request_id}/content").json()["responses"] == 1
    gone = world.client.get(f"{world.url}/v1/responses/{response_id}", headers=world.headers())
    assert gone.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "none", None), ("POST", "none/feedback", {"score": 1}), ("DELETE", "none/content", None),
     ("POST", "none/replay", {"route": "teacher"})],
)  # fmt: skip
def test_a_request_that_is_not_there_is_not_found_and_none_is_for_readers(module_world: World, method, path, body):
    assert change(module_world, method, path, body).status_code == 404
    assert change(module_world, method, path, body, "read").status_code == 403
