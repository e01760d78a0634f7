"""The lists of the admin API over a socket: one shape, page by page, and who may read the audit."""

from collections.abc import Callable

import pytest

from ledger import audit, datasets, events, jobs, keys, releases
from ledger.datasets import Dataset
from tests.gateway_fixtures import RELEASE, World
from tests.unit.ledger.rows import release


def a_key(world: World, i: int) -> str:
    return keys.create(world.store, f"key {i}", ["read"], "test")[0].id


def a_release(world: World, i: int) -> str:
    releases.add(world.store, release(f"r{i}", created_at=i))
    return f"r{i}"


def a_job(world: World, i: int) -> str:
    return jobs.create(world.store, "manual", "ann", {"note": str(i)}).id


def a_dataset(world: World, i: int) -> str:
    datasets.add(world.store, Dataset(f"d{i}", i, None, "/d", "0" * 64, {}), [])
    return f"d{i}"


def an_event(world: World, i: int) -> int:
    events.add(world.store, "drift", f"r{i}", {})
    return events.newest(world.store, 1)[0].id


def an_entry(world: World, i: int) -> int:
    with world.store.write() as connection:
        audit.record(connection, "ann", "test.made", f"thing {i}", {})
    return audit.entries(world.store, 1)[0]["id"]


LISTS: dict[str, Callable[[World, int], str | int]] = {
    "keys": a_key,
    "releases": a_release,
    "jobs": a_job,
    "datasets": a_dataset,
    "events": an_event,
    "audit": an_entry,
}


def ids(world: World, path: str) -> list[str | int]:
    return [each["id"] for each in world.get(f"/admin/v1/{path}").json()["data"]]


@pytest.mark.parametrize("name", LISTS)
def test_pages_put_together_are_the_whole_list_in_openais_shape(world: World, name: str):
    made = [LISTS[name](world, i) for i in range(5)]
    whole = world.get(f"/admin/v1/{name}").json()
    assert (whole["object"], whole["has_more"], set(whole)) == ("list", False, {"object", "data", "has_more"})
    found: list[dict] = []
    more = True
    while more:
        after = f"&after={found[-1]['id']}" if found else ""
        page = world.get(f"/admin/v1/{name}?limit=2{after}").json()
        assert len(page["data"]) == 2 or not page["has_more"]
        found += page["data"]
        more = page["has_more"]
    assert found == whole["data"]
    assert set(made) <= {each["id"] for each in found}


@pytest.mark.parametrize("name", LISTS)
def test_what_is_no_page_is_refused(module_world: World, name: str):
    for query in ("limit=0", "limit=1001", "limit=x", "limit="):
        answer = module_world.get(f"/admin/v1/{name}?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit"), query
    is_number = name in ("events", "audit")
    assert module_world.get(f"/admin/v1/{name}?after=none").status_code == (400 if is_number else 404)


def test_filters_of_lists(world: World):
    key_id = a_key(world, 7)
    keys.update_policy(world.store, key_id, {"owner": "ann", "tags": ["eu"]}, "test")
    for query in (f"name={key_id}", "owner=ann", "tag=eu&scope=read&state=active"):
        assert [key["id"] for key in world.get(f"/admin/v1/keys?{query}").json()["data"]] == [key_id], query
    assert world.get("/admin/v1/keys?state=revoked").json()["data"] == []
    a_release(world, 71)
    by_state = {state: ids(world, f"releases?state={state}") for state in ("candidate", "live")}
    assert "r71" in by_state["candidate"]
    assert by_state["live"] == [RELEASE]
    a_dataset(world, 71)
    assert ids(world, "datasets?flagged=true") == ids(world, "datasets?job=none") == []
    assert "d71" in ids(world, "datasets?flagged=false")
    assert world.get("/admin/v1/datasets?flagged=maybe").status_code == 400
    event = an_event(world, 71)
    assert ids(world, "events?subject=r71&kind=drift") == [event]
    assert ids(world, "events?subject=r71&kind=other") == []
    assert world.get("/admin/v1/events?subject=%00").status_code == 400


def test_a_change_by_the_api_is_in_the_audit_with_who_and_what_it_was(world: World):
    made = world.client.post(f"{world.url}/admin/v1/keys", json={"name": "app"}, headers=world.headers("admin"))
    assert made.headers["cache-control"] == "no-store"
    key_id, secret = made.json()["key"]["id"], made.json()["secret"]
    path = f"{world.url}/admin/v1/keys/{key_id}"
    world.client.patch(path, json={"budget_day": 3}, headers=world.headers("admin"))
    rotated = world.client.post(f"{path}/rotate", json={}, headers=world.headers("admin"))
    assert rotated.headers["cache-control"] == "no-store"
    found = world.get(f"/admin/v1/audit?subject={key_id}")
    assert [entry["action"] for entry in found.json()["data"]] == ["key.rotate", "key.update", "key.create"]
    changed = found.json()["data"][1]
    assert changed["actor"].startswith("key_")
    assert (changed["detail"]["before"], changed["detail"]["after"]) == ({}, {"budget_day": 3.0})
    for hidden in (secret, rotated.json()["secret"], keys.digest(secret)):
        assert hidden not in found.text


def test_the_audit_is_for_admins_and_how_serving_stands_for_readers(module_world: World):
    assert module_world.get("/admin/v1/audit", "read").status_code == 403
    assert module_world.get("/admin/v1/serving", "inference").status_code == 403
    found = module_world.get("/admin/v1/serving", "read").json()
    assert [(each["id"], each["state"]) for each in found["students"]] == [("replica-1", "ready")]
    assert found["students"][0]["figures"] is None, "a scripted upstream has no vLLM's metrics"
    assert found["live"] == found["routed"]
    assert "@" not in str(found["upstreams"])
