"""The page of Kubernetes without a cluster: Helm's engine renders its values, its commands name what is there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillroom.settings import load_settings
from tests.integration.docs.snippets import ROOT, blocks, commands, words
from tests.integration.docs.test_commands import check_stillroom

helm: Any = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
kubernetes: Any = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

PAGE = "docs/how-to/kubernetes.md"
CHART = "deploy/helm/stillroom"
COMMANDS = [command for page, command in commands() if page == PAGE]
NAME = SPACE = "stillroom"
OF_HELM = {
    "lint": {"--values"},
    "template": {"--namespace", "--values"},
    "install": {"--namespace", "--values", "--wait", "--timeout"},
    "upgrade": {"--namespace", "--values", "--set", "--wait", "--timeout"},
    "history": {"--namespace"},
    "rollback": {"--namespace", "--wait", "--timeout"},
}
"""Helm's commands that the page uses, each with those of its options."""
OF_KUBECTL = {"create", "exec", "port-forward", "get", "rollout", "scale"}


def typed(first: str) -> list[list[str]]:
    """The page's commands of a program, as words."""
    return [words(command) for command in COMMANDS if command.startswith(f"{first} ")]


def written(file: str) -> str:
    """What the page has one write into a file."""
    (text,) = [command for command in COMMANDS if command.startswith(f"cat > {file} <<")]
    return text.partition("\n")[2].rpartition("\n")[0]


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """What Helm makes of the page's values."""
    values = yaml.safe_load(written("values.yaml"))
    chart = helm.Chart.load(ROOT / CHART)
    chart.validate_schema(values)
    files = chart.render(values, name=NAME, namespace=SPACE)
    return [each for text in files.values() for each in yaml.safe_load_all(text) if each]


def named(objects: list[dict[str, Any]]) -> set[str]:
    return {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in objects}


def test_the_values_make_objects_that_kubernetes_takes(objects):
    kinds = {each["kind"] for each in objects}
    assert kinds >= {"StatefulSet", "HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule", "NetworkPolicy"}
    for each in objects:
        if not each["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes.validate(each, "1.30", strict=True)


def test_the_settings_and_the_secrets_variables_are_taken(objects, tmp_path: Path):
    (secret,) = [each for each in typed("kubectl") if "secret" in each]
    literals = [word.partition("=")[2] for word in secret if word.startswith("--from-literal=")]
    variables = dict(literal.split("=", 1) for literal in literals)
    (toml,) = [each["data"]["stillroom.toml"] for each in objects if each["kind"] == "ConfigMap"]
    (tmp_path / "stillroom.toml").write_text(toml)
    settings = load_settings(tmp_path / "stillroom.toml", variables)
    assert settings.teacher.api_key_env in variables
    assert settings.store.url.startswith("postgresql://")
    assert settings.gateway.redis_url
    containers = [part for each in objects if each["kind"] == "StatefulSet" for part in containers_of(each)]
    asked = {ref["secretRef"]["name"] for part in containers for ref in part.get("envFrom", ())}
    assert asked == {secret[secret.index("generic") + 1]}


def containers_of(each: dict[str, Any]) -> list[dict[str, Any]]:
    return each["spec"]["template"]["spec"]["containers"]


def test_the_images_that_are_built_are_those_that_are_pulled(objects):
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    builds = [dict(zip(each[2::2], each[3::2], strict=False)) for each in typed("docker")]
    assert {build["--target"] for build in builds} <= targets
    pulled = {part["image"] for each in objects if each["kind"] == "StatefulSet" for part in containers_of(each)}
    assert {build["--tag"] for build in builds} == pulled


@pytest.mark.parametrize("command", typed("helm"), ids=" ".join)
def test_a_command_of_helm_has_its_options_and_files_that_there_are(command: list[str]):
    options = [word for word in command if word.startswith("--")]
    assert [option for option in options if option not in OF_HELM[command[1]]] == []
    assert [word for word in command if "/" in word and word != CHART] == []
    assert command[command.index("--values") + 1] == "values.yaml" if "--values" in command else True
    assert command[1] == "lint" or command[command.index("--namespace") + 1] == SPACE
    defaults = yaml.safe_load((ROOT / CHART / "values.yaml").read_text())
    if "--set" in command:
        part, _, key = command[command.index("--set") + 1].partition("=")[0].partition(".")
        assert key in defaults[part]


@pytest.mark.parametrize("command", typed("kubectl"), ids=" ".join)
def test_a_command_of_kubectl_names_objects_that_the_chart_makes(objects, command: list[str]):
    verb = next(word for word in command[1:] if word in OF_KUBECTL)
    ours, _, inside = " ".join(command).partition(" -- ")
    assert set(re.findall(r"\b(?:statefulset|service)/[\w-]+", ours)) <= named(objects)
    if verb == "get":
        assert "/".join(command[-2:]) in named(objects)
    if inside:
        check_stillroom(inside.split())
    assert command[1:3] == ["--namespace", SPACE] or command[1:] == ["create", "namespace", SPACE]


def test_the_adapter_serves_the_metric_that_the_autoscaler_asks_for(objects):
    (block,) = [block for block in blocks("yaml") if block.page == PAGE]
    (rule,) = yaml.safe_load(block.text)["rules"]["custom"]
    (scaler,) = [each for each in objects if each["kind"] == "HorizontalPodAutoscaler"]
    metric = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert rule["seriesQuery"].startswith(f"{metric}{{")
    assert f"`{metric}`" in (ROOT / "docs/reference/metrics.md").read_text()
