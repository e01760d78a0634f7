"""Every command in the README and the pages is run, or held back for a reason that is written here.

A command that is held back is still checked: its name, its options and what it names are there.
"""

import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
import msgspec
import pytest

from serving.server import free_port
from stillroom.cli import cli
from stillroom.settings import load_settings
from tests.engine_fixtures import save_tiny_model
from tests.gateway_fixtures import wait_until
from tests.integration.docs.snippets import FENCE, PAGES, ROOT, blocks, commands, spans, words
from tests.scripted_upstream import Script, ScriptedUpstream

HELD = {
    r"make ": "makes an environment, trains or measures for minutes",
    r"stillroom (demo|distill run)": "trains for minutes",
    r"stillroom (gateway|serve|worker)$": "runs as a part of `stillroom up`",
    r".*\b(JOB|RELEASE|REQUEST|JOB_OR_RELEASE|r2026\S*)\b": "names what only a job or a request has made",
    r"curl \.\.\./": "is an abridged request",
    r"stillroom distill (rollback|canary (stop|promote))": "needs a release before it",
    r"stillroom router evaluate$": "needs a release, and explored traffic",
    r"stillroom distill data --output": "writes a dataset, which takes more answers than are here",
    r"stillroom estimate ": "reads logs of yours; its own tests have some",
    r"stillroom webhooks (test|retry)": "posts to a receiver elsewhere",
    r"createdb |stillroom ledger migrate": "needs a PostgreSQL server, as the tests of the ledger have",
    r"(docker|helm|kubectl|pg_dump|pg_restore) ": "needs a container engine or a cluster: see test_kubernetes.py",
    r"\. \.venv/bin/activate": "changes the shell that it is typed in",
}
"""What is not run here, as patterns of the command's beginning, and why."""
KNOWN = {
    ".", "cat", "createdb", "curl", "docker", "export", "helm", "kubectl", "make", "pg_dump", "pg_restore", "pip",
    "python", "stillroom",
}  # fmt: skip
PLACEHOLDER = re.compile(r"[A-Z_]{2,}(\.\.\.)?|N|\.\.\.|\[.*\]?|\|.*")
COMMANDS = commands()
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
API = (ROOT / "docs/reference/api.md").read_text("utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
QUESTION = {"messages": [{"role": "user", "content": "Where is it?"}]}
COMPLETION = {
    **QUESTION,
    "model": "frontier-model",
    "choices": [{"message": {"role": "assistant", "content": "In Ghent."}, "finish_reason": "stop"}],
}


def test_every_block_of_code_has_a_language():
    bare = [(block.page, block.text.splitlines()[0]) for block in blocks() if not block.language]
    assert bare == [], "give it one; text for a picture"
    indented = re.compile(r"^    (stillroom|curl|make|pip|export) ", re.MULTILINE)
    outside = [page.name for page in PAGES if indented.search(FENCE.sub("", page.read_text("utf-8")))]
    assert outside == [], "put commands in a block of sh"


def each(found: list[tuple[str, str]]) -> list:
    return [pytest.param(command, id=f"{page}: {command.splitlines()[0][:60]}") for page, command in found]


@pytest.mark.parametrize("command", each(COMMANDS))
def test_a_command_of_a_block_names_what_is_there(command: str):
    first = words(command)[0]
    assert first in KNOWN, "another command: have it run below, or add it here with a check"
    CHECKS.get(first, lambda _: None)(words(command))


@pytest.mark.parametrize("command", each(spans()))
def test_a_command_in_a_sentence_names_what_is_there(command: str):
    CHECKS[command.split(maxsplit=1)[0]](command.replace("'", "").split())


def check_stillroom(typed: list[str]) -> None:
    """The commands are there, and each option is one of theirs."""
    command: click.Command = cli
    options = [word.partition("=")[0] for word in typed if word.startswith("--")]
    for word in typed[1:]:
        if not isinstance(command, click.Group) or word.startswith("-") or PLACEHOLDER.fullmatch(word):
            break
        assert word in command.commands, f"{' '.join(typed)}: there is no {word}"
        command = command.commands[word]
    taken = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    assert [name for name in options if name not in taken | {"--config", "--version"}] == []


def check_make(typed: list[str]) -> None:
    """The target is there, and it reads the variables."""
    targets = [word for word in typed[1:] if "=" not in word and not PLACEHOLDER.fullmatch(word)]
    assert [target for target in targets if f"\n{target}: " not in MAKEFILE] == []
    variables = [word.partition("=")[0] for word in typed[1:] if "=" in word]
    assert [name for name in variables if f"$({name})" not in MAKEFILE and f"$(if $({name})" not in MAKEFILE] == []


def check_python(typed: list[str]) -> None:
    """The module of bench/ is there, and its options stand in it."""
    folder = ROOT / typed[2].replace(".", "/")
    files = [folder.with_suffix(".py")] if folder.with_suffix(".py").exists() else sorted(folder.glob("*.py"))
    assert files, f"there is no {typed[2]}"
    text = "".join(file.read_text("utf-8") for file in files)
    assert [word for word in typed if word.startswith("--") and f'"{word}"' not in text] == []


def check_pip(typed: list[str]) -> None:
    """The extras are there."""
    extras = [extra for word in typed for extra in re.findall(r"stillroom\[([^\]]+)\]", word)]
    assert [extra for extra in extras if extra not in EXTRAS] == []


def check_curl(typed: list[str]) -> None:
    """The path is one of the API's."""
    (url,) = [word for word in typed if "/v1/" in word and not word.startswith("{")]
    path = re.sub(r".*?(/admin/v1/|/v1/)", r"\1", url).partition("?")[0]
    assert re.search(rf"`(GET|POST) {re.escape(path)}`", API), path


CHECKS = {
    "stillroom": check_stillroom, "make": check_make, "python": check_python, "pip": check_pip, "curl": check_curl,
}  # fmt: skip


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.page)
def test_settings_that_a_page_shows_are_taken(block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAGER_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    (tmp_path / "stillroom.toml").write_text(block.text)
    load_settings(tmp_path / "stillroom.toml")


@pytest.mark.parametrize("block", blocks("json"), ids=lambda block: block.page)
def test_json_that_a_page_shows_is_json(block):
    assert msgspec.json.decode(block.text)


def test_what_is_held_back_is_in_the_pages():
    unused = [pattern for pattern in HELD if not any(re.match(pattern, command) for _, command in COMMANDS)]
    assert unused == [], "no command of a page is held back by these any more"


@dataclass
class Desk:
    """A folder in which a person types, with the gateway of the README's settings."""

    folder: Path
    env: dict[str, str]
    teacher: str
    port: int

    def here(self, text: str) -> str:
        """The text with this machine's teacher, port and key for those of the pages."""
        text = text.replace("https://teacher.example/v1", self.teacher).replace("127.0.0.1:8080", self.at)
        return text.replace("sk-stillroom-...", self.env.get("GATEWAY_KEY", "")).replace("/tmp/", f"{self.folder}/")

    @property
    def at(self) -> str:
        return f"127.0.0.1:{self.port}"

    def type(self, command: str) -> str:
        """Run it as a shell does; its output."""
        shell = ["bash", "-euo", "pipefail", "-c", f"{self.here(command)}\n"]
        done = subprocess.run(shell, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The README's own first steps, typed: settings, a key, `stillroom up`; and some traffic."""
    folder, upstream = tmp_path_factory.mktemp("desk"), ScriptedUpstream()
    upstream.script = Script(text="Your parcel is in Ghent.")
    port = free_port()
    names = {name: value for name, value in os.environ.items() if not name.startswith("STILLROOM")}
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    # the README's student would be converted for half a minute first
    ours = {"STILLROOM_GATEWAY__PORT": str(port), "STILLROOM_STUDENT__WEIGHTS": str(save_tiny_model(folder / "tiny"))}
    env = names | variables | ours | {"TEACHER_API_KEY": "sk-teacher"}
    desk = Desk(folder, env, upstream.url, port)
    (settings,) = [command for page, command in COMMANDS if page == "README.md" and command.startswith("cat >")]
    desk.type(settings)
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "auto", **QUESTION}}
    (folder / "lines.jsonl").write_bytes(msgspec.json.encode(line) + b"\n")
    (folder / "completions.jsonl").write_bytes(msgspec.json.encode(COMPLETION) + b"\n")
    desk.env["GATEWAY_KEY"] = desk.type("stillroom keys create my-app").strip()
    process = subprocess.Popen(["stillroom", "up"], cwd=folder, env=desk.env)
    try:
        wait_until(lambda: process.poll() is None and ready(desk), 90)
        yield desk
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        upstream.close()


def ready(desk: Desk) -> bool:
    try:
        return httpx.get(f"http://{desk.at}/readyz").status_code == 200
    except httpx.TransportError:
        return False


RUN = [
    (page, command)
    for command, page in {command: page for page, command in COMMANDS}.items()
    if not any(re.match(pattern, command) for pattern in HELD) and command.split("#")[0].strip() != "stillroom up"
]


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.page)
def test_python_that_a_page_shows_runs(desk: Desk, block):
    assert "sk-stillroom-..." in block.text, "have it make a client of its own"
    command = [sys.executable, "-c", desk.here(block.text)]
    done = subprocess.run(command, cwd=desk.folder, env=desk.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", each(RUN))
def test_a_command_that_a_page_shows_runs(desk: Desk, command: str):
    desk.type(command)
