"""The curve from the log, and why a request took its route, over HTTP."""

import pytest

from ledger.store import now_ms
from tests.gateway_fixtures import EASY, HARD, RELEASE, SURE, UNSURE, World, wait_until
from tests.scripted_upstream import Script

CURVE = "/admin/v1/router/curve"


@pytest.fixture
def decided(world: World) -> dict[str, str]:
    """Ids by reason."""
    ids = {
        "confident": world.chat(EASY).headers["x-request-id"],
        "hard": world.chat(HARD).headers["x-request-id"],
        "pinned": world.chat(EASY, model="teacher").headers["x-request-id"],
        "unsupported": world.chat(EASY, n=2).headers["x-request-id"],
    }
    world.student.reset(Script(logprob=UNSURE))
    ids["low_confidence"] = world.chat(EASY).headers["x-request-id"]
    assert {reason: world.row(request_id)["reason"] for reason, request_id in ids.items()} == {r: r for r in ids}
    return ids


def test_the_curve_of_the_live_release(world: World, decided: dict[str, str]):
    answer = world.get(CURVE, "read")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["release"], found["estimator"], len(found["curve"])) == (RELEASE, "dr", 101)
    assert found["requests"] >= 3
    assert set(found["in_force"]) == {"ips", "snips", "dr"}
    assert found["thresholds"]["feasible"] is True
    shares = [point["teacher_share"] for point in found["curve"]]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert all(point["low"] <= point["agreement"] <= point["high"] for point in found["curve"])


def test_the_curve_s_query(world: World, decided: dict[str, str]):
    found = world.get(f"{CURVE}?estimator=ips&points=5&release=all").json()
    assert (found["release"], found["estimator"], len(found["curve"])) == (None, "ips", 5)
    later = world.get(f"{CURVE}?since={now_ms() + 60_000}").json()
    assert (later["requests"], later["curve"], later["in_force"]) == (0, [], {})


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("estimator=best", 400, "estimator"),
        ("since=yesterday", 400, "since"),
        ("since=-1", 400, "since"),
        ("points=1", 400, "points"),
        ("until=5", 400, "until"),
        ("release=rel-9", 404, "rel-9"),
    ],
)
def test_a_query_that_cannot_be_read_is_refused_in_a_line(world: World, query: str, status: int, said: str):
    answer = world.get(f"{CURVE}?{query}")
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_the_curve_is_for_readers(world: World):
    assert world.get(CURVE, "inference").status_code == 403


def test_a_request_says_why_it_took_its_route(world: World, decided: dict[str, str]):
    shown = {reason: world.get(f"/admin/v1/requests/{request_id}").json() for reason, request_id in decided.items()}
    first = {reason: " ".join(found["why"]) for reason, found in shown.items()}
    assert "score is too low" in first["hard"]
    assert "tried from" in first["hard"]
    assert "pinned to the teacher" in first["pinned"]
    assert "asks for 2 answers at once" in first["unsupported"]
    assert "not sure enough" in first["low_confidence"]
    assert "least sure of the token" in first["low_confidence"]
    assert "will do with a probability" in first["confident"]
    assert all("Novelty" in first[reason] for reason in ("hard", "confident", "low_confidence"))
    assert {word["word"] for word in shown["hard"]["words"]} & set(HARD.split())
    assert shown["pinned"]["words"] == []
    assert all(found["labels"] == [] for found in shown.values())


def test_a_request_without_content_is_explained_by_its_numbers(world: World):
    world.student.reset(Script(text="Good day.", logprob=SURE))
    request_id = world.chat(HARD, {"x-stillroom-log": "off"}).headers["x-request-id"]
    wait_until(lambda: world.get(f"/admin/v1/requests/{request_id}").status_code == 200)
    found = world.get(f"/admin/v1/requests/{request_id}").json()
    assert (found["content"], found["words"]) == (None, [])
    assert "score is too low" in found["why"][0]
