"""``/admin/v1/jobs/preview`` and ``/triggers``, the pages of jobs, and one release, over a socket."""

import pytest

from ledger import audit, jobs, releases
from ledger.releases import Release
from ledger.requests import insert_records
from tests.gateway_fixtures import World
from tests.unit.ledger.rows import row


def test_a_preview_counts_what_is_in_the_ledger_by_the_filters_of_a_job(world: World):
    insert_records(world.store, [row(f"p{i}", tags=["preview"]) for i in range(4)] + [row("q", trainable=False)])
    answer = world.get("/admin/v1/jobs/preview?tags=preview,other&since=1970-01-01&max_examples=2", "read")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["usable"], found["at_most"], found["refused"]) == (4, 2, "")
    assert found["dropped"]["other_tags"] >= 1


@pytest.mark.parametrize("query", ["since=soon", "max_examples=0", "languages=en", "routes=cache", "min_feedback=x"])
def test_a_preview_of_what_is_no_job_is_refused(module_world: World, query):
    answer = module_world.get(f"/admin/v1/jobs/preview?{query}", "read")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_gateway_that_was_told_of_no_trigger_has_none(module_world: World):
    assert module_world.get("/admin/v1/jobs/triggers", "read").json() == {"settings": {}, "triggers": [], "holds": []}


def test_jobs_come_page_by_page_and_by_state(world: World):
    made = [jobs.create(world.store, "manual", "ann", {"note": str(i)}).id for i in range(3)]
    jobs.cancel(world.store, made[0], "ann")
    first = world.get("/admin/v1/jobs?limit=2", "read").json()["data"]
    rest = world.get(f"/admin/v1/jobs?after={first[-1]['id']}", "read").json()["data"]
    assert {job["id"] for job in first + rest} >= set(made)
    assert {job["id"] for job in first}.isdisjoint(job["id"] for job in rest)
    assert made[0] in [job["id"] for job in world.get("/admin/v1/jobs?state=cancelled", "read").json()["data"]]
    assert world.get("/admin/v1/jobs?after=job_no", "read").status_code == 404
    for limit in ("0", "1001", "x"):
        assert world.get(f"/admin/v1/jobs?limit={limit}", "read").status_code == 400


def test_a_release_is_shown_with_what_it_saved_and_pinned_by_an_admin_alone(world: World):
    releases.add(world.store, Release("r-pin", "candidate", 1, None, None, None, "/none", "0" * 64, {}))
    insert_records(world.store, [row("saved", release_id="r-pin", cost_nano=2, baseline_nano=10)])
    path = "/admin/v1/releases/r-pin"
    found = world.get(path, "read").json()
    assert (found["release"]["id"], found["saved"]["baseline_nano"], found["canaries"]) == ("r-pin", 10, [])
    assert found["payback"] is None
    for action, is_pinned in (("pin", True), ("unpin", False)):
        assert world.client.post(f"{world.url}{path}/{action}", headers=world.headers("read")).status_code == 403
        answer = world.client.post(f"{world.url}{path}/{action}", headers=world.headers("admin"))
        assert (answer.status_code, answer.json()["pinned"]) == (200, is_pinned)
        assert audit.entries(world.store)[0]["action"] == f"release.{action}"
    for cost in ("-1", "NaN", "Infinity", "much"):
        assert world.get(f"{path}?training_cost={cost}", "read").status_code == 400
    assert world.get("/admin/v1/releases/no", "read").status_code == 404
    missing = world.client.post(f"{world.url}/admin/v1/releases/no/pin", headers=world.headers("admin"))
    assert missing.status_code == 404
