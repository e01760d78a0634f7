"""``GET /admin/v1/events`` over a socket."""

import pytest

from ledger import events
from tests.gateway_fixtures import World


def test_events_come_newest_first_and_by_kind(world: World):
    assert world.get("/admin/v1/events", "read").json() == {"object": "list", "data": [], "has_more": False}
    events.add(world.store, "drift", "rel-1", {"drift": "score", "statistic": 0.4})
    events.add(world.store, "other", "rel-1", {})
    found = world.get("/admin/v1/events", "read").json()["data"]
    assert [event["kind"] for event in found] == ["other", "drift"]
    assert (found[1]["subject"], found[1]["data"]["statistic"]) == ("rel-1", 0.4)
    assert [event["id"] for event in world.get("/admin/v1/events?kind=drift").json()["data"]] == [found[1]["id"]]
    assert len(world.get("/admin/v1/events?limit=1").json()["data"]) == 1


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1.5", "9" * 5_000])
def test_a_limit_that_is_none_is_refused(module_world: World, limit: str):
    answer = module_world.get(f"/admin/v1/events?limit={limit}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


def test_events_are_for_readers(module_world: World):
    assert module_world.get("/admin/v1/events", "inference").status_code == 403
