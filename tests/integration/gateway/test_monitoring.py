"""What is shipped for Prometheus and Grafana: complete, checked by their own tools, and true of a live gateway."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import ledger_metrics
from ledger import events, jobs, labels
from ledger.store import now_ms
from serving.server import free_port
from tests.gateway_fixtures import HARD, SURE, UNSURE, World, running_world, wait_until
from tests.scripted_upstream import WAIT_S, Script

ROOT = Path(__file__).parents[3]
RULES = ROOT / "dashboards/prometheus/stillroom.rules.yml"
BOARD: dict[str, Any] = json.loads((ROOT / "dashboards/grafana/stillroom.json").read_text())
PAGE = (ROOT / "docs/reference/metrics.md").read_text()
EXPRESSIONS = sorted({target["expr"] for panel in BOARD["panels"] for target in panel["targets"]})
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")


def in_code(world: World) -> set[str]:
    """The families as the exposition names them."""
    found: set[str] = set()
    for family in world.app.state.metrics.registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        found.add(family.name + suffix)
    return found


def test_every_metric_is_in_the_page_and_the_other_way_round(world: World):
    assert set(re.findall(r"^\| `(stillroom_\w+)`", PAGE, re.MULTILINE)) == in_code(world)


def test_every_metric_is_in_a_panel(world: World):
    shown = {re.sub(r"_bucket$", "", name) for e in EXPRESSIONS for name in re.findall(r"\bstillroom_\w+", e)}
    assert shown == in_code(world)


def test_the_dashboard_keeps_the_conventions():
    assert BOARD["schemaVersion"] >= 39
    assert BOARD["uid"]
    assert [variable["type"] for variable in BOARD["templating"]["list"]] == ["datasource"]
    for panel in BOARD["panels"]:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(part["datasource"]["uid"] == "${datasource}" for part in (panel, *panel["targets"]))
    assert not [e for e in EXPRESSIONS if re.search(r"\brate\((?!.*__rate_interval)", e)]


def test_every_alert_is_whole_and_has_its_page():
    blocks = RULES.read_text().split("- alert: ")[1:]
    named = {block.split("\n")[0] for block in blocks}
    assert named == {page.stem for page in (ROOT / "docs/runbooks").glob("*.md")}
    for block in blocks:
        for part in ("for: ", "severity: ", "summary: ", "description: "):
            assert part in block
        assert f"runbook_url: docs/runbooks/{block.split(chr(10))[0]}.md\n" in block


@promtool
def test_every_alert_fires_once_and_is_silent_once(tmp_path: Path):
    text = (Path(__file__).parent / "stillroom_rules_test.yml").read_text()
    for name in re.findall(r"- alert: (\w+)", RULES.read_text()):
        assert f"- name: {name} fires\n" in text
        assert f"- name: {name} silent\n" in text
    tests = tmp_path / "tests.yml"
    tests.write_text(text.replace("RULES", str(RULES)))
    for what in (["check", "rules", RULES], ["test", "rules", tests]):
        command = ["promtool", *map(str, what)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_waits_in_the_spool_is_shown_while_the_store_is_away(world: World):
    def backlog() -> float:
        (line,) = re.findall(r"^stillroom_spool_backlog_bytes (.+)$", world.get("/metrics").text, re.MULTILINE)
        return float(line)

    def rename(old: str, new: str) -> None:
        with world.store.write() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

    rename("requests", "gone")
    try:
        answer = world.chat()
        wait_until(lambda: "stillroom_store_reachable 0.0" in world.get("/metrics").text)
        wait_until(lambda: backlog() > 0)
    finally:
        rename("gone", "requests")
    world.recorded(answer.headers["x-request-id"], 30)
    wait_until(lambda: backlog() == 0)


def provoke(world: World, turn: int) -> None:
    """Traffic of every kind; and what only an event brings: failures, labels, an event, a job."""
    world.student.reset(Script(text="Good day.", logprob=UNSURE if turn % 3 else SURE))
    world.teacher.reset(Script(text="Good day."))
    world.chat()
    world.chat(stream=True)
    world.chat(HARD, stream=True)
    world.teacher.reset(Script(status=500))
    world.chat(HARD, headers={"x-stillroom-fallback": "off"})
    label = labels.Label(
        request_id=f"r{turn}", source="explore", created_at=now_ms(), release_id=None, comparator="exact",
        agreement=1.0, propensity=1.0,
    )  # fmt: skip
    labels.add(world.store, [label])
    if not turn:
        events.add(world.store, "drift", "rel-1", {})
        jobs.create(world.store, "api", "test", {})


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus")
def test_every_panel_has_data_in_a_real_prometheus(router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ledger_metrics, "READ_S", 1.0)
    monkeypatch.setattr(ledger_metrics, "LATE_MS", 0)
    port = free_port()
    with running_world(tmp_path, router) as world:
        target = world.url.removeprefix("http://")
        scrape = {"job_name": "stillroom", "static_configs": [{"targets": [target]}]}
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [scrape],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))
        command = [
            "prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        with (tmp_path / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            missing = ask_until_all_answer(world, f"http://127.0.0.1:{port}/api/v1/query")
            assert not missing, (missing, (tmp_path / "prometheus.log").read_text()[-1000:])
        finally:
            process.terminate()
            process.wait(WAIT_S)


def ask_until_all_answer(world: World, url: str) -> list[str]:
    """The expressions that had no series in all of the time, while traffic goes on."""
    missing, deadline, turn = EXPRESSIONS, time.monotonic() + 150, 0
    while missing and time.monotonic() < deadline:
        provoke(world, turn)
        turn += 1
        time.sleep(0.5)
        missing = [expression for expression in missing if not series(url, expression)]
    return missing


def series(url: str, expression: str) -> list[Any]:
    try:
        answer = httpx.get(url, params={"query": expression.replace("$__rate_interval", "30s")}, timeout=WAIT_S)
    except httpx.TransportError:
        return []
    # it says 503 while it starts
    return answer.json()["data"]["result"] if answer.status_code == 200 else []
