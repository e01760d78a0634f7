"""Settings read again while a gateway process serves, and its end in two steps."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway_fixtures import chat_body, wait_until
from tests.gateway_process import CONFIG, KEY_ENV, GatewayProcess, gateway_process
from tests.scripted_upstream import WAIT_S, ScriptedUpstream

SETTINGS = """
drain_delay_seconds = 1.0

[teacher]
base_url = "{url}"
model = "frontier"
api_key_env = "{key_env}"
"""
ALIAS = '\n[aliases]\n"gpt-4o-mini" = "auto"\n'


@pytest.fixture
def teacher() -> Iterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    yield upstream
    upstream.close()


@pytest.fixture
def gateway(tmp_path: Path, teacher: ScriptedUpstream) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path, SETTINGS.format(url=teacher.url, key_env=KEY_ENV)) as process:
        process.start()
        yield process


def ask(gateway: GatewayProcess, **fields: Any) -> httpx.Response:
    url = f"{gateway.url}/v1/chat/completions"
    return gateway.probe.post(url, json=chat_body() | fields, headers=gateway.headers)


def hang_up(gateway: GatewayProcess, said: str) -> None:
    """Have the settings read again, and wait for the log's word of it."""
    before = gateway.log().count(said)
    gateway.system.send_signal(signal.SIGHUP)
    wait_until(lambda: gateway.log().count(said) > before)


def test_a_good_file_is_served_by_and_a_bad_one_changes_nothing(gateway: GatewayProcess):
    config = gateway.home / CONFIG
    good = config.read_text()
    assert ask(gateway, model="gpt-4o-mini").status_code == 404
    config.write_text(good + ALIAS)
    hang_up(gateway, "settings_reloaded")
    assert ask(gateway, model="gpt-4o-mini").status_code == 200
    config.write_text(good + ALIAS + "\n[router]\nagreement_target = 7\n")
    hang_up(gateway, "settings_refused")
    assert "router.agreement_target = 7" in gateway.log()
    assert "Traceback" not in gateway.log()
    assert ask(gateway, model="gpt-4o-mini").status_code == 200


def test_no_request_fails_while_settings_are_read_again_under_load(gateway: GatewayProcess):
    config = gateway.home / CONFIG
    good = config.read_text()
    stop, statuses = threading.Event(), list[int]()

    def client() -> None:
        with httpx.Client(timeout=10, headers=gateway.headers) as sender:
            while not stop.is_set():
                answer = sender.post(f"{gateway.url}/v1/chat/completions", json=chat_body(stream=True))
                statuses.append(answer.status_code if answer.text.endswith("data: [DONE]\n\n") else 0)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(6):
        config.write_text(good + ALIAS * (turn % 2))
        hang_up(gateway, "settings_reloaded")
        answered = len(statuses)
        wait_until(lambda seen=answered: len(statuses) > seen + 4)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}


def test_what_needs_a_restart_is_named_and_not_taken(gateway: GatewayProcess):
    config = gateway.home / CONFIG
    config.write_text(config.read_text().replace(f"port = {gateway.port}", "port = 1"))
    hang_up(gateway, "settings_reloaded")
    assert '"need_a_restart": ["gateway.port"]' in gateway.log()
    assert ask(gateway).status_code == 200


def test_a_gateway_told_to_end_is_not_ready_but_answers_until_its_delay_is_over(gateway: GatewayProcess):
    process = gateway.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: gateway.probe.get(f"{gateway.url}/readyz").status_code == 503)
    assert ask(gateway).status_code == 200
    assert process.wait(WAIT_S) == 0
    assert len(gateway.recorded()) == 1
