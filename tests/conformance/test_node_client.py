"""OpenAI's client for Node against the gateway: each test is one run of ``node/ask.mjs``."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.scripts import LOCATE, calling, streaming_calls
from tests.gateway_fixtures import EASY, World
from tests.scripted_upstream import Script

FOLDER = Path(__file__).parent / "node"
MESSAGES = [{"role": "user", "content": EASY}]

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="there is no Node on this machine")


@pytest.fixture(scope="session")
def installed() -> Path:
    """The client, as `make setup` installs it."""
    done = FOLDER / "node_modules" / ".package-lock.json"
    if not done.exists() or done.stat().st_mtime < (FOLDER / "package-lock.json").stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=FOLDER, check=True, timeout=200)
    return FOLDER


@pytest.fixture
def ask(installed: Path, world: World) -> Callable[..., Any]:
    """Run the client: ``ask(how, key=..., **body)``."""

    def run(how: str, key: str | None = None, **body: Any) -> Any:
        request = {
            "baseURL": f"{world.url}/v1",
            "apiKey": key or world.secrets["inference"],
            "how": how,
            "body": {"model": "auto", "messages": MESSAGES} | body,
        }
        command = ["node", "ask.mjs", json.dumps(request)]
        done = subprocess.run(command, cwd=installed, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_completion_is_what_the_node_client_expects(ask):
    answer = ask("plain", model="gpt-4o-mini")["value"]
    assert answer["choices"][0]["message"]["content"] == "The student says good day."
    assert answer["usage"]["total_tokens"] == 16


def test_a_stream_is_what_the_node_client_expects(ask):
    chunks = ask("stream", stream_options={"include_usage": True})["value"]
    text = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert text == "The student says good day."
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["prompt_tokens"]) == ([], 11)


def test_tool_calls_come_back_whole_and_streamed(ask, world: World):
    world.teacher.reset(calling("a1", "b2"))
    whole = ask("plain", tools=[LOCATE])["value"]["choices"][0]["message"]["tool_calls"]
    world.teacher.reset(streaming_calls("a1", "b2"))
    put_together = ask("helper", tools=[LOCATE])["value"]["choices"][0]["message"]["tool_calls"]
    for calls in (whole, put_together):
        assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"parcel": "a1"}, {"parcel": "b2"}]


def test_the_headers_reach_the_node_client(ask):
    headers = ask("headers")["value"]
    assert headers["x-stillroom-route"] == "student"
    assert headers["x-request-id"].startswith("req_")


def test_the_models_are_listed_for_the_node_client(ask):
    assert {"auto", "student", "teacher", "gpt-4o-mini"} <= set(ask("models")["value"])


def test_a_node_client_that_leaves_a_stream_closes_it(ask, world: World):
    world.student.script = Script(text="word " * 2_000, logprob=-0.02, gap=0.02)
    assert ask("leave")["value"] == "left"
    assert world.student.seen[0].has_left()


def test_a_stream_that_breaks_off_is_an_error_of_the_node_client(ask, world: World):
    world.teacher.reset(Script(text="one two three four five", gap=0.02, cut_after=4))
    found = ask("broken", model="teacher")["value"]
    assert found["text"].startswith("one two")
    assert found["error"] == "APIError"
    assert "broke off" in found["message"]


def test_the_gateways_errors_are_the_node_clients_own(ask, world: World):
    refusal = b'{"error":{"message":"slower","type":"t","param":null,"code":"rate_limit_exceeded"}}'
    world.teacher.reset(Script(status=429, body=refusal))
    found = {
        "key": ask("plain", key="sk-wrong")["error"],
        "model": ask("plain", model="gpt-17")["error"],
        "body": ask("plain", messages=[])["error"],
        "limit": ask("plain", model="teacher")["error"],
        "streamed limit": ask("stream", model="teacher")["error"],
    }
    assert {name: (error["name"], error["status"], error["code"]) for name, error in found.items()} == {
        "key": ("AuthenticationError", 401, "invalid_api_key"),
        "model": ("NotFoundError", 404, "model_not_found"),
        "body": ("BadRequestError", 400, None),
        "limit": ("RateLimitError", 429, "rate_limit_exceeded"),
        "streamed limit": ("RateLimitError", 429, "rate_limit_exceeded"),
    }
    assert all(error["requestID"].startswith("req_") for error in found.values())
