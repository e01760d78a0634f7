"""What a stranger installs: the wheel and the source distribution, in an environment that holds nothing else."""

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from serving.server import free_port
from tests.gateway_fixtures import answers, wait_until
from tests.scripted_upstream import Script, ScriptedUpstream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
CORE_BYTES = 60_000_000
VENDOR = ROOT / "dashboards/static/vendor"
CONFIG = """
home = "home"
[gateway]
port = {port}
[teacher]
base_url = "{teacher}"
model = "frontier"
"""


@dataclass(frozen=True)
class Built:
    """What is published."""

    wheel: Path
    source: Path


@dataclass(frozen=True)
class Installed:
    """The core, installed: its command, and the sizes of what pip fetched for it."""

    stillroom: Path
    fetched: dict[str, int]

    def run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [self.stillroom, *arguments]
        return subprocess.run(command, cwd=cwd, env=bare(), capture_output=True, text=True, check=False)


def bare() -> dict[str, str]:
    """This environment without what would let the sources in."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STILLROOM"))}


def build(folder: Path, target: Path, *kinds: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target), *kinds]
    subprocess.run(command, cwd=folder, env=bare(), check=True, capture_output=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return Built(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    fetch = [*pip, "download", "-c", str(ROOT / "constraints.txt"), "-d", str(folder / "wheels")]
    probe = subprocess.run([*fetch, "--no-deps", "click"], env=bare(), capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no package index to be had: {probe.stderr.strip().splitlines()[-1]}")
    subprocess.run([*fetch, str(built.wheel)], env=bare(), check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=False)
    python = str(folder / "venv/bin/python")
    command = [*pip, "--python", python, "install", "--no-index", "--find-links", str(folder / "wheels"), "stillroom"]
    subprocess.run(command, env=bare(), check=True, capture_output=True)
    fetched = {path.name: path.stat().st_size for path in (folder / "wheels").iterdir()}
    return Installed(folder / "venv/bin/stillroom", fetched)


def contents(wheel: Path) -> dict[str, bytes]:
    """All but the list of hashes, which names the others."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")}


def test_the_source_distribution_builds_the_same_wheel(built: Built, tmp_path: Path):
    with tarfile.open(built.source) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    build(folder, tmp_path / "again", "-t", "wheel")
    (again,) = (tmp_path / "again").glob("*.whl")
    assert contents(again) == contents(built.wheel)


def test_the_wheel_holds_the_pages_the_board_the_rules_and_the_migrations(built: Built):
    names = contents(built.wheel).keys()
    wanted = {"dashboards/templates/base.html", "dashboards/static/ops.js", "dashboards/grafana/stillroom.json"}
    wanted |= {"dashboards/prometheus/stillroom.rules.yml", "ledger/migrations/env.py"}
    wanted |= {f"dashboards/static/vendor/{path.name}" for path in VENDOR.glob("*")}
    assert wanted <= names
    assert not [name for name in names if re.match(r"tests/|bench/|tools/|dashboards/web/", name)]


def test_the_core_is_small_and_has_neither_torch_nor_what_only_training_needs(installed: Installed):
    names = {re.split(r"-\d", name)[0].replace("_", "-").lower() for name in installed.fetched}
    assert names.isdisjoint({"torch", "transformers", "vllm", "scikit-learn", "scipy", "pyarrow"})
    assert sum(installed.fetched.values()) < CORE_BYTES


def test_the_installed_command_says_its_version_and_all_its_commands(installed: Installed, tmp_path: Path):
    assert installed.run("--version", cwd=tmp_path).stdout.split()[-1] == importlib.metadata.version("stillroom")
    told = installed.run("--help", cwd=tmp_path).stdout
    assert all(f" {command} " in told for command in ("up", "gateway", "keys", "ledger", "router", "distill"))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["worker"], id="worker"),
        pytest.param(["router", "evaluate", "--dataset", "t.csv", "--strong", "a", "--weak", "b"], id="evaluate"),
    ],
)
def test_what_needs_an_extra_names_it_in_one_line(installed: Installed, tmp_path: Path, command: list[str]):
    (tmp_path / "t.csv").write_text("prompt,a,b\nhello,1,0\n")
    ended = installed.run(*command, cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    assert re.fullmatch(r"stillroom: this needs \w+: run pip install 'stillroom\[train\]'\n", ended.stderr)


@pytest.fixture
def gateway(installed: Installed, tmp_path: Path) -> Iterator[str]:
    """The installed gateway, asking a scripted teacher; its URL."""
    upstream, port = ScriptedUpstream(), free_port()
    upstream.script = Script(text="Your parcel is in Ghent.")
    (tmp_path / "stillroom.toml").write_text(CONFIG.format(port=port, teacher=upstream.url))
    url = f"http://127.0.0.1:{port}"
    environment = bare() | {"TEACHER_API_KEY": "sk-of-the-teacher"}
    process = subprocess.Popen([installed.stillroom, "gateway"], cwd=tmp_path, env=environment)
    try:
        wait_until(lambda: process.poll() is None and answers(f"{url}/readyz"), 60)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(30)
        upstream.close()
    assert status == 0


def test_the_installed_gateway_answers_records_and_shows_its_pages(
    gateway: str, installed: Installed, tmp_path: Path
):
    secret = installed.run("keys", "create", "app", "--scope", "inference", cwd=tmp_path).stdout.strip()
    with openai.OpenAI(base_url=f"{gateway}/v1", api_key=secret) as client:
        messages = [{"role": "user", "content": "Where is my parcel?"}]
        answer = client.chat.completions.with_raw_response.create(model="auto", messages=messages)
        assert answer.parse().choices[0].message.content == "Your parcel is in Ghent."
    assert answer.headers["x-stillroom-route"] == "teacher"
    wait_until(lambda: '"teacher"' in installed.run("ledger", "stats", "--json", cwd=tmp_path).stdout, 30)

    page = httpx.get(f"{gateway}/ops/login")
    parts = re.findall(r"(?:src|href)=\"(/ops/static/[^\"]+)\"", page.text)
    assert page.status_code == 200
    assert [part for part in parts if httpx.get(f"{gateway}{part}").status_code != 200] == []
    assert len(parts) >= (3 if VENDOR.exists() else 1)
