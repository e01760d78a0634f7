"""The Helm chart, rendered by Helm's own engine: each object is one that Kubernetes takes, each command line ours."""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving import readiness
from stillroom.cli import cli
from stillroom.settings import load_settings

helm: Any = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
kubernetes: Any = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy/helm/stillroom"
KUBERNETES = "1.30"
SECRETS = {"secrets": ["stillroom"]}
MANAGED: dict[str, Any] = {"monitoring": {"serviceMonitor": True, "prometheusRule": True, "labels": {"release": "p"}}}
VLLM: dict[str, Any] = {
    "topology": "vllm", "student": {"model": "/models/s", "args": ["--dtype", "float32"]},
    "gateway": {"autoscaling": {"enabled": True, "inFlight": 64}},
}  # fmt: skip
EXTERNAL: dict[str, Any] = {"topology": "external", "student": {"url": "http://vllm.models:8000/v1"}}
FLEET: dict[str, Any] = {"topology": "fleet", "student": {"replicas": 3, "releases": "s3://bucket/releases"}}
TOPOLOGIES = pytest.mark.parametrize(
    "values", [MANAGED, FLEET, VLLM, EXTERNAL], ids=["managed", "fleet", "vllm", "external"]
)
POD = {"STILLROOM_STUDENT__ADDRESS": "fd00::5", "STILLROOM_STORE__URL": "postgresql://db/s", "STUDENT_API_KEY": "sk"}
"""What a cluster puts into the variables that are read from the pod and its Secret."""


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects that the chart makes of these values."""
    chart = helm.Chart.load(CHART)
    files = chart.render(values | SECRETS, name="demo", namespace="models")
    return [each for text in files.values() for each in yaml.safe_load_all(text) if each]


def pods(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pods' specifications by the name of who makes them."""
    found = [each for each in rendered(values) if each["kind"] == "StatefulSet"]
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in found}


def one(values: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = (each for each in rendered(values) if each["kind"] == kind)
    return found


def test_helms_own_linter_finds_no_fault():
    found = helm.lint(CHART)
    assert found["errors"] == []
    assert [each["error"] for each in found["messages"]] == ["icon is recommended"]


@TOPOLOGIES
def test_kubernetes_takes_every_object(values: dict[str, Any]):
    for each in rendered(values):
        # the two kinds of the Prometheus operator are no part of Kubernetes
        if not each["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes.validate(each, KUBERNETES, strict=True)


@TOPOLOGIES
def test_every_container_is_a_plain_users_on_a_read_only_root(values: dict[str, Any]):
    for spec in pods(values).values():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            written = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert written == {"/var/lib/stillroom", "/tmp"}
            assert container["resources"]["limits"]["memory"]


@TOPOLOGIES
def test_each_container_of_ours_runs_a_command_that_there_is_with_settings_that_are_taken(values, tmp_path: Path):
    file = tmp_path / "stillroom.toml"
    file.write_text(one(values, "ConfigMap")["data"]["stillroom.toml"])
    ours = [each for spec in pods(values).values() for each in spec["containers"] if each["name"] != "vllm"]
    for container in ours:
        option, path, command = container["args"]
        assert (option, path) == ("--config", "/etc/stillroom/stillroom.toml")
        assert command == container["name"]
        assert command in cli.commands
        settings = load_settings(
            file, {each["name"]: each.get("value") or POD[each["name"]] for each in container["env"]}
        )
        assert settings.home == "/var/lib/stillroom"
        assert settings.gateway.host == "0.0.0.0"
        assert container["envFrom"] == [{"secretRef": {"name": "stillroom"}}]
    urls = {
        "managed": None,
        "fleet": None,
        "vllm": "http://demo-student:8000/v1",
        "external": "http://vllm.models:8000/v1",
    }
    assert settings.student.base_url == urls[values.get("topology", "managed")]
    serves = values in (MANAGED, FLEET)
    expected = {"gateway", "serve", "worker"} if serves else {"gateway", "worker"}
    assert {each["name"] for each in ours} == expected


def test_the_students_servers_are_asked_where_the_service_is_and_by_gateways_and_workers_only():
    spec = pods(VLLM)["demo-student"]
    assert spec["containers"][0]["args"] == ["--model", "/models/s", "--dtype", "float32"]
    services = [each for each in rendered(VLLM) if each["kind"] == "Service"]
    (student,) = (each for each in services if each["metadata"]["name"] == "demo-student")
    assert student["spec"]["ports"][0]["port"] == 8000
    assert student["spec"]["clusterIP"] == "None", "its name has every pod's address"
    policies = {each["metadata"]["name"]: each["spec"] for each in rendered(VLLM) if each["kind"] == "NetworkPolicy"}
    let_in = policies["demo-student"]["ingress"][0]["from"]
    components = {each["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for each in let_in}
    assert components == {"gateway", "worker"}
    assert "ingress" not in policies["demo-worker"]


def test_the_next_pod_is_replaced_when_the_students_of_the_one_before_say_that_they_are_ready(tmp_path: Path):
    (serve,) = pods(FLEET)["demo-student"]["containers"]
    (home,) = (each["mountPath"] for each in serve["volumeMounts"] if each["name"] == "home")
    command = [word.replace(home, str(tmp_path)) for word in serve["readinessProbe"]["exec"]["command"]]

    def says_so() -> bool:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    assert str(tmp_path / readiness.FILE) in command[-1]
    assert not says_so()
    readiness.tell(tmp_path, True)
    assert says_so()
    stale = time.time() - 30
    os.utime(tmp_path / readiness.FILE, (stale, stale))
    assert not says_so(), "whoever wrote it is gone"
    readiness.tell(tmp_path, True)
    readiness.tell(tmp_path, False)
    readiness.tell(tmp_path, False)
    assert not says_so()
    readiness.tell(tmp_path / "nowhere", True)


def test_students_in_pods_of_their_own_have_the_pods_address_a_key_and_let_gateways_and_workers_in_only():
    found = pods(FLEET)
    assert {name: [each["name"] for each in spec["containers"]] for name, spec in found.items()} == {
        "demo": ["gateway"], "demo-worker": ["worker"], "demo-student": ["serve"],
    }  # fmt: skip
    for spec in found.values():
        variables = {each["name"]: each for each in spec["containers"][0]["env"]}
        assert variables["STILLROOM_DISTILL__ARTIFACTS"]["value"] == "s3://bucket/releases"
        address = variables["STILLROOM_STUDENT__ADDRESS"]["valueFrom"]
        assert address == {"fieldRef": {"fieldPath": "status.podIP"}}
        for name in ("STILLROOM_STORE__URL", "STUDENT_API_KEY"):
            # not optional: without it the pod does not start
            assert variables[name]["valueFrom"] == {"secretKeyRef": {"name": "stillroom", "key": name}}
    sets = {each["metadata"]["name"]: each["spec"] for each in rendered(FLEET) if each["kind"] == "StatefulSet"}
    assert sets["demo-student"]["replicas"] == 3
    policies = {each["metadata"]["name"]: each["spec"] for each in rendered(FLEET) if each["kind"] == "NetworkPolicy"}
    labels = sets["demo-student"]["template"]["metadata"]["labels"]
    assert policies["demo-student"]["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = policies["demo-student"]["ingress"]
    components = {each["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for each in rule["from"]}
    assert components == {"gateway", "worker"}
    assert "ports" not in rule, "each server takes a free one"


def test_gateways_are_scaled_by_a_metric_that_they_have():
    scaler = one(VLLM, "HorizontalPodAutoscaler")["spec"]
    pod = scaler["metrics"][0]["pods"]
    assert pod["target"]["averageValue"] == "64"
    assert f"`{pod['metric']['name']}`" in (ROOT / "docs/reference/metrics.md").read_text()
    assert "replicas" not in one(VLLM | {"worker": {"enabled": False}}, "HorizontalPodAutoscaler")["spec"]
    target = scaler["scaleTargetRef"]
    (gateway,) = (
        each
        for each in rendered(VLLM)
        if (each["kind"], each["metadata"]["name"]) == (target["kind"], target["name"])
    )
    assert "replicas" not in gateway["spec"], "the autoscaler's to set"


def test_the_rules_are_those_of_the_repository_and_what_is_scraped_is_the_gateways_service():
    rule, monitor = one(MANAGED, "PrometheusRule"), one(MANAGED, "ServiceMonitor")
    assert rule["spec"] == yaml.safe_load((ROOT / "dashboards/prometheus/stillroom.rules.yml").read_text())
    assert rule["metadata"]["labels"]["release"] == "p"
    wanted = monitor["spec"]["selector"]["matchLabels"]
    service = one(MANAGED, "Service")
    assert wanted.items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


@pytest.mark.parametrize(
    "values",
    [
        {"topology": "ray"},
        {"topology": "external"},
        {"topology": "vllm"},
        {"gateway": {"replica": 3}},
        {"x": 1},
        {"topology": "fleet", "secrets": ["s"]},
        {"topology": "fleet", "student": {"releases": "s3://b"}},
        {"topology": "fleet", "secrets": ["s"], "student": {"releases": "/var/lib/stillroom"}},
    ],
)
def test_values_that_would_not_work_are_refused(values: dict[str, Any]):
    with pytest.raises(helm.HelmError):
        helm.Chart.load(CHART).validate_schema(values)


def test_the_chart_is_of_the_projects_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert os.path.realpath(CHART / "files/stillroom.rules.yml").endswith("dashboards/prometheus/stillroom.rules.yml")
