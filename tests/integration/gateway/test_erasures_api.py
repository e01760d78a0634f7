"""``POST /admin/v1/erasures`` over a socket."""

import httpx
import pytest

from ledger import audit, datasets
from ledger.requests import get
from tests.gateway_fixtures import World
from tests.unit.ledger.test_datasets import dataset


def post(world: World, body: object, scope: str = "admin") -> httpx.Response:
    return world.client.post(f"{world.url}/admin/v1/erasures", json=body, headers=world.headers(scope))


def test_what_a_user_said_is_erased_and_its_holders_are_named(world: World):
    asked = world.chat(user="ann")
    request_id = asked.headers["x-request-id"]
    assert world.recorded(request_id)[1] is not None
    datasets.add(world.store, dataset("d1"), [(request_id, False)])
    tried = post(world, {"user": "ann", "dry_run": True}).json()
    assert (tried["contents"], get(world.store, request_id)[1] is None) == (1, False)
    done = post(world, {"user": "ann"})
    assert (done.status_code, done.json()["contents"]) == (200, 1)
    assert [held["id"] for held in done.json()["holders"]["datasets"]] == ["d1"]
    assert get(world.store, request_id)[1] is None
    assert audit.entries(world.store, 1)[0]["actor"].startswith("key_")


def test_a_request_that_the_store_does_not_have_yet_is_erased_when_it_comes(world: World):
    request_id = world.chat(user="ann").headers["x-request-id"]
    assert post(world, {"request": request_id}).status_code == 200
    assert world.recorded(request_id)[1] is None


@pytest.mark.parametrize("body", [{}, {"user": "a", "key": "b"}, {"user": 1}, {"users": "a"}, {"user": ""}])
def test_what_is_to_be_erased_is_named_once(module_world: World, body: object):
    assert post(module_world, body).status_code == 400


@pytest.mark.parametrize("kind", ["key", "conversation"])
def test_what_is_not_there_is_not_found(module_world: World, kind: str):
    answer = post(module_world, {kind: "nothing"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, kind)


def test_erasing_is_for_admins(module_world: World):
    assert post(module_world, {"user": "ann"}, "read").status_code == 403
