"""The reference is what the code says: nothing in the code lacks its line."""

import ast
import re
from pathlib import Path
from typing import get_args

import click
import pytest

from gateway.error_codes import CODES, Code
from gateway.header_list import ANSWERED, PASSED_ON, SENT
from gateway.metric_list import MEANINGS
from stillroom.cli import cli
from tools import reference

ROOT = Path(__file__).parents[2]
COMMANDS = dict(reference.commands(cli, "stillroom"))
OF_OURS = re.compile(
    r"(x|webhook)-[a-z-]+[a-z]|request-id|idempotency-key|retry-after|traceparent|tracestate|openai-[a-z-]+"
)
METRIC, SUFFIX = re.compile(r"stillroom_[a-z_]+"), re.compile(r"_(total|info|created|bucket|count|sum)$")
BUILT = re.compile(r"x-ratelimit-")
"""Names that are put together, so that no literal has them whole."""


def test_the_check_names_the_page_that_is_old(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    monkeypatch.setattr(reference, "PAGES", {"errors.md": reference.errors_page})
    monkeypatch.setattr("sys.argv", ["reference.py"])
    assert reference.main() == 0
    monkeypatch.setattr("sys.argv", ["reference.py", "--check"])
    assert reference.main() == 0
    (tmp_path / "errors.md").write_text("old")
    assert reference.main() == 1
    assert "docs/reference/errors.md is out of date" in capsys.readouterr().err


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_each_of_its_options_says_what_it_does(path: str):
    command = COMMANDS[path]
    silent = [p.opts[0] for p in command.params if isinstance(p, click.Option) and not p.hidden and not p.help]
    assert command.help, f"{path} needs a docstring"
    assert silent == [], f"options of {path} without help="


def test_every_header_of_the_code_has_its_meaning_and_no_other_is_told_of():
    listed = SENT.keys() | PASSED_ON.keys() | ANSWERED.keys()
    found = literals("header_list.py", OF_OURS)
    assert found - listed == set(), "a header of gateway/ that gateway/header_list.py does not explain"
    assert {name for name in listed - found if not BUILT.match(name)} <= {"authorization"}, (
        "told of, and not in gateway/"
    )


def literals(without: str, pattern: re.Pattern[str]) -> set[str]:
    """Texts of the gateway's code, without the list of them, that are such names."""
    files = [path for path in (ROOT / "gateway").rglob("*.py") if path.name != without]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    values = {node.value for node in nodes if isinstance(node, ast.Constant)}
    words = {value.decode("latin-1") if isinstance(value, bytes) else value for value in values}
    return {word for word in words if isinstance(word, str) and pattern.fullmatch(word)}


def test_every_metric_of_the_code_has_its_meaning_and_no_other_is_told_of():
    found = {SUFFIX.sub("", name) for name in literals("metric_list.py", METRIC)}
    assert found - {"stillroom_session"} == MEANINGS.keys()  # the cookie of the pages


def test_every_code_of_an_error_has_its_status_and_meaning():
    assert CODES.keys() == set(get_args(Code))
    assert [code for code, (status, meaning) in CODES.items() if not (status and meaning)] == []
