"""A first byte that takes long is asked for twice; who answers first is kept, the other call is closed."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ledger.prices import Tokens, cost_nano
from tests.gateway_fixtures import (
    TEACHER_PRICE,
    World,
    running_world,
    stream_data,
    streamed_text,
    trust,
    wait_until,
)
from tests.scripted_upstream import CACHED_TOKENS, FOREVER, PROMPT_TOKENS, Script, ScriptedUpstream
from tests.upstream_settings import SPARE_PRICE, changed, spare

HEDGE_AFTER = 0.6
PATIENT = {"hedge_after_seconds": HEDGE_AFTER, "timeout_seconds": FOREVER}
SLOW, QUICK = Script(text="The slow one.", delay=FOREVER), Script(text="The quick one, not the other.")


@dataclass
class Hedged:
    """A world with two teachers."""

    world: World
    second: ScriptedUpstream


@pytest.fixture(scope="module")
def module_hedged(router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hedged]:
    second = ScriptedUpstream()
    change = changed(teacher=PATIENT | {"fallbacks": (spare(second.url),)})
    try:
        with running_world(tmp_path_factory.mktemp("hedged"), router, change) as world:
            yield Hedged(world, second)
    finally:
        second.close()


@pytest.fixture
def hedged(module_hedged: Hedged) -> Hedged:
    module_hedged.world.teacher.reset(QUICK)
    module_hedged.second.reset(QUICK)
    trust(module_hedged.world)
    return module_hedged


def said(answer, stream: bool) -> str:
    return streamed_text(answer) if stream else answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_first_byte_is_overtaken_and_its_call_closed(hedged: Hedged, stream: bool):
    hedged.world.teacher.reset(SLOW)
    answer = hedged.world.chat(model="teacher", stream=stream)
    assert (answer.status_code, said(answer, stream)) == (200, QUICK.text)
    if stream:
        assert stream_data(answer)[-1] == "[DONE]"
    assert hedged.world.teacher.seen[0].has_left()
    assert len(hedged.second.seen) == 1
    row = hedged.world.row(answer.headers["x-request-id"])
    assert row["cost_nano"] == cost_nano(SPARE_PRICE, Tokens(PROMPT_TOKENS, len(QUICK.tokens), CACHED_TOKENS))
    assert row["attempt_completion_tokens"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_first_byte_in_time_is_asked_for_once(hedged: Hedged, stream: bool):
    hedged.world.teacher.reset(Script(text=QUICK.text, gap=0.03))
    answer = hedged.world.chat(model="teacher", stream=stream)
    assert (answer.status_code, said(answer, stream)) == (200, QUICK.text)
    assert (len(hedged.world.teacher.seen), hedged.second.seen) == (1, [])


@pytest.mark.parametrize("stream", [False, True])
def test_the_first_one_is_kept_where_the_second_fails(hedged: Hedged, stream: bool):
    hedged.world.teacher.reset(Script(text=SLOW.text, delay=1.2))
    hedged.second.reset(Script(status=503, body=b""))
    answer = hedged.world.chat(model="teacher", stream=stream)
    assert (answer.status_code, said(answer, stream)) == (200, SLOW.text)
    assert len(hedged.second.seen) == 1
    row = hedged.world.row(answer.headers["x-request-id"])
    assert row["cost_nano"] == cost_nano(TEACHER_PRICE, Tokens(PROMPT_TOKENS, len(SLOW.tokens), CACHED_TOKENS))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_closes_both_calls(hedged: Hedged, stream: bool):
    hedged.world.teacher.reset(Script(delay=FOREVER))
    hedged.second.reset(Script(delay=FOREVER))
    client = hedged.world.client
    with pytest.raises(Exception, match="timed out"):
        client.post(
            f"{hedged.world.url}/v1/chat/completions",
            json={"model": "teacher", "stream": stream, "messages": [{"role": "user", "content": "hi"}]},
            headers=hedged.world.headers(),
            timeout=2.0,
        )
    assert hedged.world.teacher.seen[0].has_left()
    assert hedged.second.seen[0].has_left()
    side = hedged.world.app.state.relay.teacher
    wait_until(lambda: side.in_flight == side.retrying == 0)


def test_a_single_teacher_is_asked_twice(router, tmp_path):
    with running_world(tmp_path, router, changed(teacher=PATIENT)) as world:
        world.teacher.reset(QUICK, [SLOW])
        answer = world.chat(model="teacher")
        assert (answer.status_code, said(answer, False), len(world.teacher.seen)) == (200, QUICK.text, 2)
