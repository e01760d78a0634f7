"""What containers of our images are given, without any: a plain user, a root that cannot be written, and a home and a
folder for temporary files that can. The three services of ``compose.yaml`` run on it and do their work.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import openai
import pytest

from ledger import jobs
from ledger.store import open_store, sqlite_url
from serving.fleet import keeper_alive
from serving.server import free_port
from tests.gateway_fixtures import answers, wait_until
from tests.scripted_upstream import ScriptedUpstream

SOURCES = Path(__file__).parents[2]
USER = "10001"
ENTER = """
mount --bind "$1" "$1" && mount -o remount,bind,ro / && cd "$1" && shift &&
exec setpriv --reuid "$1" --regid "$1" --clear-groups --no-new-privs --inh-caps=-all,+dac_read_search \\
  --ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search -- env -i "${@:2}"
"""
"""Of all rights one is kept, to read: the interpreter of the tests may lie in a folder of its owner's."""
WAIT_S = 60.0


def can_enter() -> bool:
    tools = os.geteuid() == 0 and all(map(shutil.which, ("unshare", "setpriv")))
    return tools and subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not can_enter(), reason="needs root, and leave to make a mount namespace")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    (path / "tmp").mkdir(parents=True)
    for each in (path, path / "tmp"):
        os.chown(each, int(USER), int(USER))
    return path


def inside(home: Path, *command: str, **variables: str) -> list[str]:
    """The command line that runs a command there."""
    given = {"PATH": os.environ["PATH"], "HOME": home, "STILLROOM_HOME": home, "TMPDIR": home / "tmp", **variables}
    stated = [f"{name}={value}" for name, value in given.items()]
    return ["unshare", "--mount", "bash", "-c", ENTER, "enter", str(home), USER, *stated, *command]


def stillroom(home: Path, *arguments: str, **variables: str) -> list[str]:
    main = f"import sys; sys.path[0] = {str(SOURCES)!r}; from stillroom.cli import main; main()"
    return inside(home, sys.executable, "-c", main, *arguments, **variables)


@contextmanager
def running(home: Path, service: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    with (home / f"{service}.txt").open("wb") as log:
        process = subprocess.Popen(stillroom(home, service, **variables), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        status = process.wait(60)
    assert status == 0, (home / f"{service}.txt").read_text()


def test_the_services_work_for_a_plain_user_on_a_read_only_root(home: Path):
    teacher, port = ScriptedUpstream(), free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "STILLROOM_GATEWAY__PORT": str(port),
        "STILLROOM_TEACHER__BASE_URL": teacher.url,
        "STILLROOM_TEACHER__TERMS_ALLOW_TRAINING": "false",
        "STILLROOM_STUDENT__DEVICE": "cpu",
        "TEACHER_API_KEY": "sk-of-the-teacher",
    }
    touched = subprocess.run(
        inside(home, "touch", str(home.parent / "beside")), check=False, capture_output=True, text=True
    )
    assert "Read-only file system" in touched.stderr
    try:
        with ExitStack() as services:
            gateway = services.enter_context(running(home, "gateway", **settings))
            wait_until(lambda: gateway.poll() is None and answers(f"{url}/readyz"), WAIT_S)
            for service in ("serve", "worker"):
                services.enter_context(running(home, service, **settings))
            created = stillroom(home, "keys", "create", "app", "--scope", "inference", **settings)
            secret = subprocess.run(created, check=True, capture_output=True, text=True).stdout.strip()
            with openai.OpenAI(base_url=f"{url}/v1", api_key=secret) as client:
                messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
                answer = client.chat.completions.create(model="auto", messages=messages)
            assert answer.choices[0].message.content == "Good day to you, dear friend of ours."
            store = open_store(sqlite_url(home))
            job = jobs.create(store, "manual", "test", {})
            wait_until(lambda: keeper_alive(store), WAIT_S)
            # that the worker says so is its work
            wait_until(lambda: "terms_allow_training" in (jobs.get(store, job.id).error or ""), WAIT_S)
            store.close()
    finally:
        teacher.close()
    assert {path.stat().st_uid for path in home.rglob("*") if path.suffix != ".txt"} == {int(USER)}
