"""``curl`` and the ``llm`` command against the gateway, as a person would type them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.scripts import asked, calling, saying
from tests.gateway_fixtures import EASY, World
from tests.scripted_upstream import Script

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
LOCATE = 'def locate(parcel: str) -> str:\n    "Where a parcel is."\n    return parcel + " is in Ghent"\n'
BUSY = b'{"error":{"message":"slower","type":"t","param":null,"code":"rate_limit_exceeded"}}'


def curl(world: World, *options: str, key: str | None = None, **fields) -> tuple[int, str]:
    """(HTTP status, output)."""
    body = {"model": "auto", "messages": [{"role": "user", "content": EASY}], **fields}
    command = [
        "curl", "-sS", "-N", "-w", "\n%{http_code}", *options, f"{world.url}/v1/chat/completions",
        "-H", f"Authorization: Bearer {key or world.secrets['inference']}",
        "-H", "Content-Type: application/json", "-d", json.dumps(body),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    output, _, status = done.stdout.rpartition("\n")
    return int(status), output


@needs_curl
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_curl_is_answered(world: World, version: str):
    status, output = curl(world, version)
    assert (status, json.loads(output)["choices"][0]["message"]["content"]) == (200, "The student says good day.")


@needs_curl
def test_curl_sees_a_stream_to_its_end(world: World):
    status, output = curl(world, stream=True)
    events = output.strip().split("\n\n")
    assert (status, events[-1]) == (200, "data: [DONE]")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == "The student says good day."


@needs_curl
def test_curl_sees_errors_in_openais_shape(world: World):
    world.teacher.reset(Script(status=429, body=BUSY))
    found = [curl(world, key="sk-wrong"), curl(world, model="gpt-17"), curl(world, model="teacher")]
    assert [(status, json.loads(output)["error"]["code"]) for status, output in found] == [
        (401, "invalid_api_key"),
        (404, "model_not_found"),
        (429, "rate_limit_exceeded"),
    ]


@needs_curl
def test_curls_own_retry_waits_as_it_was_told_to(world: World):
    world.teacher.reset(Script(text="now it works"), [Script(status=429, body=BUSY, headers={"retry-after": "3"})])
    status, output = curl(world, "--retry", "1", model="teacher")
    assert status == 200
    assert "now it works" in output
    assert len(world.teacher.seen) == 2


@pytest.fixture
def llm(world: World, tmp_path: Path):
    """Run ``llm``, told of the gateway by its settings file; gives (status, output, errors)."""
    model = {
        "api_base": f"{world.url}/v1", "api_key_name": "stillroom",
        "supports_tools": True, "supports_schema": True,
    }  # fmt: skip
    names = {"stillroom": "auto", "unknown": "gpt-17", "teacher": "teacher"}
    models = [model | {"model_id": name, "model_name": asked_for} for name, asked_for in names.items()]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))

    def run(*arguments: str, key: str | None = None) -> tuple[int, str, str]:
        # no plugins: the carrier of the demo's weights is one, installed without its dependencies
        environment = {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": "", "PATH": "", "HOME": str(tmp_path)}
        command = [sys.executable, "-m", "llm", *arguments, "--key", key or world.secrets["inference"]]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize("options", [["--no-stream"], []], ids=["plain", "streamed"])
def test_llm_is_answered(llm, world: World, options: list[str]):
    assert llm("prompt", "-m", "stillroom", *options, EASY) == (0, "The student says good day.\n", "")
    assert world.student.seen[0].body["stream"] is not bool(options)


def test_llm_calls_tools(llm, world: World):
    world.teacher.reset(Script(text="They are in Ghent."), [calling("a1", "b2")])
    status, output, errors = llm("prompt", "-m", "stillroom", "--no-stream", "--functions", LOCATE, EASY)
    assert (status, output) == (0, "They are in Ghent.\n"), errors
    sent = world.teacher.seen[1].body["messages"]
    assert [m["content"] for m in sent if m["role"] == "tool"] == ["a1 is in Ghent", "b2 is in Ghent"]


def test_llm_asks_for_a_schema(llm, world: World):
    saying(world, '{"city": "Ghent", "days": 3}')
    status, output, _ = llm("prompt", "-m", "stillroom", "--no-stream", "--schema", "city, days int", EASY)
    assert (status, json.loads(output)) == (0, {"city": "Ghent", "days": 3})
    assert asked(world)["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    ("arguments", "key", "says"),
    [
        (["-m", "stillroom", EASY], "sk-wrong", "Incorrect API key"),
        (["-m", "unknown", EASY], None, "does not exist"),
        (["-m", "teacher", EASY], None, "slower"),
    ],
    ids=["401", "404", "429"],
)
def test_llm_says_what_the_gateway_says(llm, world: World, arguments: list[str], key: str | None, says: str):
    world.teacher.reset(Script(status=429, body=BUSY.replace(b"rate_limit_exceeded", b"insufficient_quota")))
    status, output, errors = llm("prompt", *arguments, key=key)
    assert (status, output) == (1, "")
    assert says in errors
