"""A gateway of two worker processes on one port."""

import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from ledger import keys
from tests.gateway_fixtures import chat_body, wait_until
from tests.gateway_process import KEY_ENV, GatewayProcess, gateway_process
from tests.scripted_upstream import WAIT_S, ScriptedUpstream

SETTINGS = """
workers = 2
[teacher]
base_url = "{url}"
model = "frontier"
api_key_env = "{key_env}"
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    teacher = ScriptedUpstream()
    settings = SETTINGS.format(url=teacher.url, key_env=KEY_ENV)
    with gateway_process(tmp_path_factory.mktemp("workers"), settings) as gateway:
        gateway.start()
        wait_until(lambda: len(workers(gateway)) == 2, 30)
        # connections go to those that listen: let both
        wait_until(lambda: answered_by(gateway) == 2, 30)
        yield gateway
        gateway.end(signal.SIGTERM)
    teacher.close()


def workers(gateway: GatewayProcess) -> list[psutil.Process]:
    """The processes that serve, in order of their ids."""
    found = gateway.system.children(recursive=True)
    return sorted(
        (each for each in found if "--siblings" in each.cmdline() and "-I" not in each.cmdline()), key=lambda p: p.pid
    )


def answered_by(gateway: GatewayProcess) -> int:
    """How many workers have a connection of ours, of many that are opened anew."""
    with httpx.Client(timeout=10, limits=httpx.Limits(max_connections=None)) as client:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: client.get(f"{gateway.url}/readyz"), range(32)))
        serving = [each.net_connections(kind="tcp") for each in workers(gateway)]
    return sum(any(c.status == psutil.CONN_ESTABLISHED for c in connections) for connections in serving)


def ask(gateway: GatewayProcess, secret: str) -> int:
    """On a connection of its own."""
    headers = {"authorization": f"Bearer {secret}"}
    return httpx.post(
        f"{gateway.url}/v1/chat/completions", json=chat_body(), headers=headers, timeout=WAIT_S
    ).status_code


def requests_of(text: str) -> float:
    return sum(float(value) for value in re.findall(r"^stillroom_requests_total{[^}]*} (\S+)$", text, re.MULTILINE))


def test_whichever_worker_is_asked_tells_what_all_have_counted(gateway: GatewayProcess):
    before = requests_of(httpx.get(f"{gateway.url}/metrics").text)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: ask(gateway, gateway.secret), range(40))) == {200}
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda _: httpx.get(f"{gateway.url}/metrics").text, range(12)))
    assert {requests_of(text) - before for text in texts} == {40.0}
    wait_until(lambda: gateway.rolled_up() == len(gateway.recorded()) >= 40)


def test_a_key_that_is_revoked_is_refused_by_every_worker(gateway: GatewayProcess):
    key, secret = keys.create(gateway.store, "short", ["inference"], "test")
    wait_until(lambda: {ask(gateway, secret) for _ in range(8)} == {200})
    keys.revoke(gateway.store, key.id, "test")
    # by each of the two, whichever is met
    wait_until(lambda: {ask(gateway, secret) for _ in range(16)} == {401})


def test_a_worker_that_is_killed_is_started_again_while_the_other_answers(gateway: GatewayProcess):
    killed = workers(gateway)[0]
    killed.kill()
    wait_until(lambda: not killed.is_running())
    assert [ask(gateway, gateway.secret) for _ in range(20)] == [200] * 20
    wait_until(lambda: len(workers(gateway)) == 2, 30)
    assert killed.pid not in [each.pid for each in workers(gateway)]
    wait_until(lambda: answered_by(gateway) == 2, 30)
    assert requests_of(httpx.get(f"{gateway.url}/metrics").text) >= 20


def test_all_end_in_order_when_they_are_told_to(gateway: GatewayProcess):
    serving = workers(gateway)
    assert gateway.end(signal.SIGTERM) == 0
    assert not any(each.is_running() for each in serving)
    assert list((gateway.home / "spool").iterdir()) == []
    assert "Traceback" not in gateway.log()
    gateway.start()


def test_a_port_that_is_taken_is_said_once_and_no_worker_started(gateway: GatewayProcess, tmp_path_factory):
    other = tmp_path_factory.mktemp("taken")
    with gateway_process(other, SETTINGS.format(url="http://127.0.0.1:9", key_env=KEY_ENV)) as second:
        config = other / "stillroom.toml"
        config.write_text(config.read_text().replace(str(second.port), str(gateway.port)))
        with pytest.raises(AssertionError, match="in use"):
            second.start()
        assert second.process is not None
        assert second.process.wait(WAIT_S) == 1
        assert "Traceback" not in second.log()
