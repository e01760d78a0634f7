"""Every fault, on either side, for plain answers and streams: what the client gets, and the one row that is left."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from ledger import requests, schema
from tests.gateway_fixtures import EASY, HARD, World, stream_data, streamed_text, wait_until
from tests.integration.faults.cases import FAULTS, RETRIES, Case, Effect
from tests.integration.faults.conftest import FaultyWorld

OTHER = {"student": "teacher", "teacher": "student"}
ASKS = {"student": EASY, "teacher": HARD}
"""What the router sends to each side."""
OWN_REASON = {"student": "confident", "teacher": "hard"}
DOWN = {"student": "student_down", "teacher": "teacher_down"}
REFUSALS = {Effect.LOST: (503, "service_unavailable"), Effect.LATE: (504, "timeout")}
"""Status and error code of a request that no other side may answer."""
ENDS = {Effect.BROKEN: "upstream_error", Effect.BROKEN_LATE: "timeout"}
"""Code of the error event that ends a stream."""


@dataclass(frozen=True)
class Cell:
    """One request that meets one fault."""

    fault: str
    side: str
    stream: bool
    pinned: bool

    @property
    def case(self) -> Case:
        return FAULTS[self.fault]

    @property
    def effect(self) -> Effect:
        # who is pinned to the student is not judged by its first tokens, and nothing is held back
        effect = self.case.effect("teacher" if self.pinned else self.side, self.stream)
        assert effect is not None
        return effect

    def __str__(self) -> str:
        how = "pinned to" if self.pinned else "routed to"
        return f"{self.fault}: {'stream' if self.stream else 'plain'} {how} the {self.side}"


@dataclass(frozen=True)
class Outcome:
    """What a client sees."""

    status: int
    route: str
    reason: str
    code: str | None = None
    """Of the error, whole or as the event that ends the stream."""


def expected(cell: Cell) -> Outcome:
    """What the gateway promises."""
    own = Outcome(200, cell.side, "pinned" if cell.pinned else OWN_REASON[cell.side])
    if cell.effect is Effect.NONE:
        return own
    if cell.effect in ENDS:
        return replace(own, code=ENDS[cell.effect])
    passed_on = cell.effect is Effect.LIMITED and cell.side == "teacher"
    if not (cell.pinned or passed_on):
        return Outcome(200, OTHER[cell.side], DOWN[cell.side])
    status, code = REFUSALS.get(cell.effect, (429, cell.case.code))
    return replace(own, status=status, code=code)


def cells() -> Iterator[Any]:
    for fault, stream, side, pinned in itertools.product(
        FAULTS, (False, True), ("student", "teacher"), (False, True)
    ):
        cell = Cell(fault, side, stream, pinned)
        if cell.case.effect(side, stream) is not None:
            yield pytest.param(cell, id=str(cell))


def ask(world: World, cell: Cell) -> httpx.Response:
    fields = {"model": cell.side} if cell.pinned else {}
    return world.chat(ASKS[cell.side], {"x-stillroom-tags": str(cell)}, stream=cell.stream, **fields)


def error_of(answer: httpx.Response, stream: bool) -> dict[str, Any] | None:
    """The answer's error, in OpenAI's shape or this fails."""
    whole = stream and answer.status_code == 200
    last = stream_data(answer)[-1] if whole else answer.json()
    if whole and last == "[DONE]":
        return None
    if not whole and "error" not in last:
        return None
    error = last["error"]
    assert {"message", "type", "param", "code"} <= error.keys(), "the error has not OpenAI's shape"
    assert isinstance(error["message"], str)
    assert answer.text.count('"error"') == 1
    assert "[DONE]" not in answer.text
    return error


def shown(answer: httpx.Response, stream: bool) -> str:
    """The text that the client got."""
    if answer.status_code != 200:
        return ""
    return streamed_text(answer) if stream else answer.json()["choices"][0]["message"]["content"]


def tagged(world: World, tag: str) -> list[str]:
    with world.store.read() as connection:
        rows = connection.execute(sa.select(schema.requests.c.id, schema.requests.c.tags)).all()
    return [row.id for row in rows if row.tags == [tag]]


@pytest.mark.parametrize("cell", cells())
def test_a_fault_ends_in_an_answer_or_a_proper_error_and_one_row(faulty: FaultyWorld, cell: Cell):
    world = faulty.world
    faulty.fail(cell.side, cell.case.network, cell.case.script_for(cell.stream))
    answer = ask(world, cell)
    error = error_of(answer, cell.stream)
    got = Outcome(
        answer.status_code,
        answer.headers["x-stillroom-route"],
        answer.headers["x-stillroom-reason"],
        error["code"] if error else None,
    )
    assert got == expected(cell)
    row = world.row(answer.headers["x-request-id"])
    assert tagged(world, str(cell)) == [row["id"]]
    text = shown(answer, cell.stream).replace("x" * 1000, "")
    assert (row["route"], row["reason"], row["error_code"] is None) == (got.route, got.reason, error is None)
    assert row["completion_tokens"] == len(text.split())
    lost = cell.case.lost if cell.effect is Effect.LOST else 0
    assert (row["attempt_completion_tokens"], row["attempt_prompt_tokens"]) == (lost, 11 * bool(lost))
    if error is None:
        assert (row["status"], row["prompt_tokens"]) == (200, 11)
    attempts = faulty.networks[cell.side].requests
    assert attempts <= (1 if cell.effect in (Effect.NONE, *ENDS) else 1 + RETRIES)


def test_every_request_of_the_matrix_was_recorded_once(faulty: FaultyWorld):
    world = faulty.world
    answered = world.chat(headers={"x-stillroom-tags": "the last one"})
    world.row(answered.headers["x-request-id"])
    wait_until(lambda: "stillroom_spool_backlog_bytes 0.0" in world.get("/metrics").text)
    lines = world.get("/metrics").text.splitlines()
    recorded = sum(float(line.split()[-1]) for line in lines if line.startswith("stillroom_requests_total{"))
    with world.store.read() as connection:
        rows = connection.execute(sa.select(sa.func.count()).select_from(schema.requests)).scalar_one()
    assert recorded == rows == requests.count(world.store)
