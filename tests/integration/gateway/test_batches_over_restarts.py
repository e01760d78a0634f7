"""A batch outlives its gateway: killed or told to end, the next one goes on, and no line is asked twice or lost."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.gateway_fixtures import wait_until
from tests.gateway_process import KEY_ENV, GatewayProcess, gateway_process
from tests.scripted_upstream import Script, ScriptedUpstream

LINES, KILLS = 80, 3
CHAT = "/v1/chat/completions"
SETTINGS = f"""
drain_seconds = 10
{{more}}
[teacher]
base_url = "{{teacher}}"
model = "frontier"
api_key_env = "{KEY_ENV}"
"""
PRELUDE = "from gateway.batches import runner; runner.LEASE_S = 2.0"


@pytest.fixture
def teacher() -> Iterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    upstream.reset(Script(text="Good day.", delay=0.05))
    yield upstream
    upstream.close()


def begin(gateway: GatewayProcess) -> str:
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": CHAT,
            "body": {"model": "auto", "messages": [{"role": "user", "content": str(number)}]},
        }
        for number in range(LINES)
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    with client_of(gateway) as client:
        file = client.files.create(file=("lines.jsonl", data), purpose="batch")
        return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id


def client_of(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.secret, max_retries=3)


def asked(teacher: ScriptedUpstream) -> list[str]:
    return [seen.body["messages"][0]["content"] for seen in teacher.seen]


def written(home: Path) -> list[str]:
    """The lines that have a result on disk; the last may be half written."""
    return [
        json.loads(line)["custom_id"]
        for path in (home / "files").glob("batch_*.output")
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


def rows_by_line(gateway: GatewayProcess, batch_id: str) -> dict[str, str]:
    """The request id of each line's result, once the batch is over."""
    with client_of(gateway) as client:
        wait_until(lambda: client.batches.retrieve(batch_id).status == "completed", 90)
        batch = client.batches.retrieve(batch_id)
        assert (batch.error_file_id, batch.output_file_id is not None) == (None, True)
        text = client.files.content(batch.output_file_id or "").text
    found = [json.loads(line) for line in text.splitlines()]
    assert sorted(int(each["custom_id"]) for each in found) == list(range(LINES))
    assert all(each["response"]["status_code"] == 200 for each in found)
    return {each["custom_id"]: each["response"]["request_id"] for each in found}


def test_a_batch_whose_gateway_is_killed_goes_on_where_it_was(teacher: ScriptedUpstream, tmp_path: Path):
    with gateway_process(tmp_path, SETTINGS.format(teacher=teacher.url, more=""), PRELUDE) as gateway:
        gateway.start()
        batch_id = begin(gateway)
        for kill in range(1, KILLS + 1):
            wait_until(lambda: len(written(tmp_path)) >= kill * LINES // 5, 60)  # noqa: B023 called at once
            gateway.end(signal.SIGKILL)
            wait_until(lambda: all(seen.over.is_set() for seen in teacher.seen))
            before, done = len(teacher.seen), set(written(tmp_path))
            gateway.start()
            wait_until(lambda: len(teacher.seen) > before, 60)  # noqa: B023 called at once
            again = asked(teacher)[before:]
            assert not done & set(again)
        rows = rows_by_line(gateway, batch_id)
        wait_until(lambda: len(gateway.recorded()) >= LINES)
        assert set(rows.values()) <= set(gateway.recorded())
        # a row more than a line: it was killed between the two, and what it had asked was paid for
        assert len(gateway.recorded()) <= LINES + KILLS
        assert len(asked(teacher)) <= LINES + KILLS * 4


def test_a_batch_whose_gateway_is_told_to_end_loses_and_repeats_nothing(teacher: ScriptedUpstream, tmp_path: Path):
    with gateway_process(tmp_path, SETTINGS.format(teacher=teacher.url, more="")) as gateway:
        gateway.start()
        batch_id = begin(gateway)
        wait_until(lambda: len(written(tmp_path)) >= LINES // 4, 60)
        assert gateway.end(signal.SIGTERM) == 0
        assert 0 < len(written(tmp_path)) == len(teacher.seen) < LINES
        gateway.start()
        rows = rows_by_line(gateway, batch_id)
        wait_until(lambda: len(gateway.recorded()) >= LINES)
        assert sorted(rows.values()) == sorted(gateway.recorded())
        assert len(teacher.seen) == LINES


def test_of_several_workers_one_has_a_batch(teacher: ScriptedUpstream, tmp_path: Path):
    with gateway_process(tmp_path, SETTINGS.format(teacher=teacher.url, more="workers = 2")) as gateway:
        gateway.start()
        batch_id = begin(gateway)
        rows_by_line(gateway, batch_id)
        assert sorted(asked(teacher)) == sorted(map(str, range(LINES)))
        assert gateway.end(signal.SIGTERM) == 0
