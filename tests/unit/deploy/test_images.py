"""Dockerfile and compose.yaml, read and not run: no container is started here, what they would start is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from gateway.settings import GatewaySettings
from serving import engine
from serving.server import free_port
from serving.settings import StudentSettings
from stillroom.cli import cli
from stillroom.settings import load_settings
from tests.gateway_fixtures import answers, wait_until

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = {"gateway": "gateway", "serve": "worker", "worker": "worker"}
"""Each service of ours, and the image's target."""


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, with those of the stages that it is made from."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        base, _, name = head.partition(" AS ")
        lines = re.sub(r"\\\n\s*", "", body).splitlines()
        found[name] = found.get(base, []) + [line for line in lines if line and not line.startswith("#")]
    return found


def last(lines: list[str], instruction: str) -> str:
    return [line.removeprefix(f"{instruction} ") for line in lines if line.startswith(f"{instruction} ")][-1]


@pytest.mark.parametrize("target", ["gateway", "worker", "student"])
def test_an_image_runs_as_a_plain_user_and_brings_its_bill_of_materials(target: str):
    lines = stages()[target]
    assert last(lines, "USER") == "10001:10001"
    assert last(lines, "VOLUME") == "/var/lib/stillroom"
    assert last(lines, "COPY") == f"--from=bill-{target} /opt/stillroom /opt/stillroom"
    assert "-o /opt/stillroom/sbom.json" in last(stages()[f"bill-{target}"], "RUN")
    assert last(lines, "HEALTHCHECK")


@pytest.mark.parametrize("target", ["gateway", "worker"])
def test_an_image_of_ours_starts_a_command_that_there_is(target: str):
    lines = stages()[target]
    assert json.loads(last(lines, "ENTRYPOINT")) == ["stillroom"]
    assert json.loads(last(lines, "CMD")) == [target]
    assert target in cli.commands


@pytest.mark.parametrize("stage", ["build", "build-worker"])
def test_an_image_of_ours_has_the_drivers_of_the_stores_that_the_chart_may_name(stage: str):
    extras = re.search(r"'\.\[(.+)\]'", last(stages()[stage], "RUN"))
    assert extras is not None
    assert {"otel", "postgres", "redis"} <= set(extras[1].split(","))


def test_the_students_image_starts_the_server_that_serving_starts():
    entry = json.loads(last(stages()["student"], "ENTRYPOINT"))
    assert entry[:3] == ["python", "-m", engine.MODULE]
    options = engine.EngineOptions(Path("/m"), "student", "r", 8000, 512, "cpu")
    known = engine.command(options)
    for name in entry[3::2]:
        assert name in known, name
    at = entry.index("--served-model-name")
    assert entry[at + 1] == load_settings(None, {}).student.model


def test_what_the_image_asks_of_the_gateways_health_is_answered(composed_gateway: str):
    check = json.loads(last(stages()["gateway"], "HEALTHCHECK").partition("CMD ")[2])
    assert check[0] == "python"

    def asked(port: str | int) -> subprocess.CompletedProcess[bytes]:
        environment = os.environ | {"STILLROOM_GATEWAY__PORT": str(port)}
        return subprocess.run(
            [sys.executable, *check[1:]], check=False, env=environment, capture_output=True, timeout=60
        )

    done = asked(urlsplit(composed_gateway).port or 0)
    assert done.returncode == 0, done.stderr
    assert asked(9).returncode != 0
    assert f", {GatewaySettings().port})" in check[-1], "where nothing is set, it asks the port that is the default"


@pytest.fixture
def composed_gateway(tmp_path: Path):
    """The image's command line, with the environment of `compose.yaml`, without a container."""
    environment = given(COMPOSE["services"]["gateway"])
    command = [sys.executable, "-c", "from stillroom.cli import main; main()", "gateway"]
    port = free_port()
    ours = {"STILLROOM_HOME": str(tmp_path), "STILLROOM_GATEWAY__PORT": str(port)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environment | ours, stdout=log, stderr=log, cwd=tmp_path)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/readyz") or process.poll() is not None, 120)
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(60)


def given(service: dict[str, Any]) -> dict[str, str]:
    """Its environment where the shell has nothing of it: a name alone is then left out."""
    return {name: plain(text) for name, text in service["environment"].items() if text is not None}


def plain(text: str) -> str:
    """Compose's ``${NAME:-default}`` where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_has_a_command_and_an_environment_that_are_taken(name: str):
    service = COMPOSE["services"][name]
    assert service["build"]["target"] == OURS[name]
    (command,) = service.get("command", ["gateway"])
    assert command in cli.commands
    settings = load_settings(None, given(service))
    assert settings.teacher.base_url == "https://api.openai.com/v1"
    assert settings.teacher.api_key_env in service["environment"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_who_asks_the_students_shares_the_gateways_network_since_they_listen_on_loopback():
    assert StudentSettings().address == "127.0.0.1"
    for name in ("serve", "worker"):
        assert COMPOSE["services"][name]["network_mode"] == "service:gateway"
        assert "ports" not in COMPOSE["services"][name]


def test_the_profile_of_postgresql_and_redis_is_what_the_page_has_the_shell_name():
    services = COMPOSE["services"]
    page = (ROOT / "docs/how-to/deploy.md").read_text()
    named = dict(re.findall(r"export (STILLROOM_\w+)=\"?([^\s\"]+)", page))
    assert named.keys() == {name for name, text in services["gateway"]["environment"].items() if text is None}
    settings = load_settings(None, given(services["gateway"]) | named)
    store, redis = urlsplit(settings.store.url), urlsplit(settings.gateway.redis_url)
    asked = services["postgres"]["environment"]
    assert (store.scheme, store.hostname, store.port) == ("postgresql", "postgres", 5432)
    assert (store.username, store.path) == (asked["POSTGRES_USER"], f"/{asked['POSTGRES_DB']}")
    assert (redis.hostname, redis.port) == ("redis", 6379)
    profiles = {name for name, service in services.items() if "scale-out" in service.get("profiles", ())}
    assert profiles == {"postgres", "redis"}


def test_every_file_that_a_service_mounts_is_there():
    mounts = [
        volume.split(":")[0] for service in COMPOSE["services"].values() for volume in service.get("volumes", [])
    ]
    files = [mount for mount in mounts if mount.startswith("./")]
    assert len(files) == 4
    assert [file for file in files if not (ROOT / file).exists()] == []
    scraped = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"][0]["static_configs"]
    assert scraped == [{"targets": ["gateway:8080"]}]
    assert load_settings(None, {}).gateway.port == 8080
