"""The installer's decisions, without installing anything."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from pip._vendor.packaging.requirements import Requirement

from tools.install_engine import ALIAS, CPU_WHEEL, PINNED, cpu_requirements, installed, satisfied, write_alias

SCRIPT = Path(__file__).parents[3] / "tools" / "install_engine.py"


@pytest.mark.parametrize(
    ("need", "met"),
    [
        pytest.param("pytest>=9", True, id="installed and new enough"),
        pytest.param("pytest<9", False, id="installed and too new"),
        pytest.param("no-such-distribution", False, id="not installed"),
    ],
)
def test_a_requirement_is_met_by_an_installed_version_that_fits(need, met):
    assert satisfied(Requirement(need)) is met


@pytest.mark.skipif(installed(CPU_WHEEL) is None, reason="the CPU engine is not installed")
def test_the_cpu_requirements_name_no_local_build_and_none_of_the_cuda_packages():
    needs = {need.name: str(need.specifier) for need in cpu_requirements()}
    assert needs["torch"] == "==2.13.0"
    assert not needs.keys() & {"torchvision", "torchaudio", "torchcodec"}
    assert not any("+" in specifier for specifier in needs.values())


def test_what_is_locked_here_is_what_the_wheels_of_other_machines_ask_for():
    assert set(PINNED) <= set((SCRIPT.parents[1] / "constraints.txt").read_text().split())


def test_the_alias_makes_the_version_of_vllm_known(tmp_path, capsys):
    write_alias(tmp_path)
    write_alias(tmp_path)
    alias = importlib.metadata.Distribution.at(tmp_path / ALIAS)
    assert (alias.metadata["Name"], alias.version) == ("vllm", "0.32.0+cpu")
    assert {str(file) for file in alias.files} == {f"{ALIAS}/{name}" for name in ("INSTALLER", "METADATA", "RECORD")}
    assert "vllm 0.32.0+cpu" in capsys.readouterr().out


def test_a_missing_constraints_file_is_a_usage_error(tmp_path):
    command = [sys.executable, str(SCRIPT), "--constraints", str(tmp_path / "none.txt"), "cpu"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "is not a file" in ran.stderr
