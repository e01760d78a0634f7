"""Two gateway processes on one ledger: what one is told of a key, the other keeps to a moment later."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ledger import keys
from ledger.store import sqlite_url
from tests.gateway_fixtures import chat_body, wait_until
from tests.gateway_process import KEY_ENV, GatewayProcess, gateway_process
from tests.scripted_upstream import ScriptedUpstream

SETTINGS = """
[teacher]
base_url = "{url}"
model = "frontier"
api_key_env = "{key_env}"
price = {{ input = 2.0, output = 8.0 }}
[store]
url = "{store}"
"""


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    teacher = ScriptedUpstream()
    settings = SETTINGS.format(url=teacher.url, key_env=KEY_ENV, store=sqlite_url(first))
    with gateway_process(first, settings) as one, gateway_process(second, settings) as other:
        one.start()
        other.start()
        yield one, other
    teacher.close()


class Admin:
    """Changes keys at the first gateway."""

    def __init__(self, gateway: GatewayProcess) -> None:
        _, secret = keys.create(gateway.store, "ops", ["admin"], "test")
        self._gateway, self._headers = gateway, bearer(secret)

    def send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self._gateway.probe.request(method, self._gateway.url + path, json=body, headers=self._headers)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def ask(gateway: GatewayProcess, secret: str) -> int:
    url = f"{gateway.url}/v1/chat/completions"
    return gateway.probe.post(url, json=chat_body(), headers=bearer(secret)).status_code


def test_a_key_that_one_makes_changes_and_revokes_is_made_changed_and_revoked_at_the_other(gateways):
    one, other = gateways
    admin = Admin(one)
    made = admin.send("POST", "/admin/v1/keys", {"name": "app", "scopes": ["inference"]}).json()
    secret, path = made["secret"], f"/admin/v1/keys/{made['key']['id']}"
    assert ask(other, secret) == 200
    assert admin.send("PATCH", path, {"models": ["nothing"]}).status_code == 200
    wait_until(lambda: ask(other, secret) == 403)
    assert admin.send("PATCH", path, {"models": None}).status_code == 200
    wait_until(lambda: ask(other, secret) == 200)
    rotated = admin.send("POST", f"{path}/rotate", {"overlap_seconds": 0}).json()["secret"]
    wait_until(lambda: ask(other, secret) == 401)
    assert ask(other, rotated) == 200
    assert admin.send("POST", f"{path}/revoke").status_code == 200
    wait_until(lambda: ask(other, rotated) == 401)


def test_what_is_spent_at_one_is_spent_at_the_other(gateways):
    one, other = gateways
    admin = Admin(one)
    body = {"name": "poor", "scopes": ["inference"], "budget_day": 0.0001}
    secret = admin.send("POST", "/admin/v1/keys", body).json()["secret"]
    wait_until(lambda: ask(one, secret) == 429)
    wait_until(lambda: ask(other, secret) == 429)
