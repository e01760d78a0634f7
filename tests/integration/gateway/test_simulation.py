"""The simulation beside a real gateway: the same requests take the same routes, for the same reasons."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from bench.simulate import Clock, Gateway, Row, World
from gateway.app import GatewayConfig
from router.model import RouterModel
from tests.gateway_fixtures import EASY, HARD, SURE, UNSURE, running_world
from tests.scripted_upstream import Script

REQUESTS = 240
SHARE = 0.3


@pytest.mark.parametrize("logprob", [SURE, UNSURE], ids=["a student that is sure", "a student that is not"])
def test_a_real_runs_shares_are_reproduced(router: RouterModel, tmp_path: Path, logprob: float):
    def bound(config: GatewayConfig) -> GatewayConfig:
        # no answer is late here, however busy the machine
        patient = {"connect_timeout_seconds": 30.0, "timeout_seconds": 30.0}
        return replace(
            config,
            router=msgspec.structs.replace(config.router, max_teacher_share=SHARE),
            student=msgspec.structs.replace(config.student, **patient),
            teacher=msgspec.structs.replace(config.teacher, **patient),
        )

    texts = [EASY if number % 3 else HARD for number in range(REQUESTS)]
    real: Counter[tuple[str, str]] = Counter()
    with running_world(tmp_path, router, bound) as world:
        world.student.reset(Script(text="from the student", logprob=logprob))
        for text in texts:
            answer = world.chat(text)
            real[answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]] += 1
        seen = {text: world.row(world.chat(text).headers["x-request-id"]) for text in (EASY, HARD)}
    # the student's doubt shows where it was tried; a hard request never is
    rows = {text: Row(row["score"], row["confidence"] or 0.0, True) for text, row in seen.items()}
    gateway = Gateway(World(list(rows.values()), router.thresholds, 1, 1, max_share=SHARE), Clock(0.0))
    simulated: Counter[tuple[str, str]] = Counter()
    for text in texts:
        call, _ = gateway.route(rows[text], up=True)
        gateway.settle(call, 0.01 if call.decision.route == "teacher" else 0.0)
        simulated[call.decision.route, call.decision.reason] += 1
    assert simulated.total() == real.total() == REQUESTS
    assert len(real) >= 2
    assert simulated == real
