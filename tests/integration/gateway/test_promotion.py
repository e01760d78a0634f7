"""A release is a student and its router: while one is promoted over the other, no request mixes them."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from ledger import releases, replicas
from ledger.artifacts import seal
from ledger.store import now_ms
from router.classifier_training import fit_classifier
from router.features import RequestView
from router.model import RouterModel
from router.thresholds import NEVER
from tests.gateway_fixtures import RELEASE, SURE, World, running_world, streamed_text, wait_until
from tests.scripted_upstream import Script, ScriptedUpstream

OTHER = "rel-2"
SCORES = {RELEASE: 0.5, OTHER: 0.75}
ANSWERS = {RELEASE: "The first says good day.", OTHER: "The second says good day."}
WORKERS, PROMOTIONS = 4, 4


def of_score(router: RouterModel, score: float) -> RouterModel:
    """A router that gives this score to all, and tries all: the base rate of two or of six labels."""
    agreed = np.array([True, False]) if score == 0.5 else np.array([True] * 5 + [False])
    classifier = fit_classifier([RequestView((("user", "hello"),))] * agreed.size, agreed)
    bars = replace(router.thresholds, hard=0.0, sure=NEVER, confident=0.0, confident_end=0.0)
    return replace(router, classifier=classifier, thresholds=bars)


@dataclass
class Pair:
    """A world whose gateway knows two releases, each with a student of its own."""

    world: World
    students: dict[str, ScriptedUpstream]

    def promote(self, release: str) -> None:
        """Promote, and keep both students' heartbeats fresh."""
        for number, (of, student) in enumerate(self.students.items()):
            replicas.report(self.world.store, replicas.Replica(f"replica-{number + 1}", of, student.url, "ready", 0))
        releases.promote(self.world.store, release, "test")


@pytest.fixture
def pair(router: RouterModel, tmp_path: Path) -> Iterator[Pair]:
    second = ScriptedUpstream()
    try:
        with running_world(tmp_path, of_score(router, 0.5)) as world:
            folder = tmp_path / "releases" / OTHER
            of_score(router, 0.75).save(folder / "router")
            releases.add(
                world.store,
                releases.Release(OTHER, "candidate", now_ms(), None, None, None, str(folder), seal(folder, {}), {}),
            )
            yield Pair(world, {RELEASE: world.student, OTHER: second})
    finally:
        second.close()


def answered(pair: Pair, number: int) -> tuple[str, str, str]:
    """Release, text and request id of one answer, every other one streamed."""
    response = pair.world.chat(stream=bool(number % 2))
    assert response.status_code == 200
    plain = None if number % 2 else response.json()["choices"][0]["message"]["content"]
    return response.headers["x-stillroom-release"], plain or streamed_text(response), response.headers["x-request-id"]


def test_no_request_has_one_releases_router_and_anothers_student(pair: Pair):
    for release, student in pair.students.items():
        student.reset(Script(text=ANSWERS[release], logprob=SURE, delay=0.02))
    ended = threading.Event()
    by_worker: list[list[tuple[str, str, str]]] = [[] for _ in range(WORKERS)]

    def promote_in_turn() -> None:
        try:
            for number in range(PROMOTIONS + 1):
                release = (RELEASE, OTHER)[number % 2]
                pair.promote(release)
                # until each has met it
                wait_until(lambda: all(found and found[-1][0] == release for found in by_worker))  # noqa: B023
        finally:
            ended.set()

    def ask(worker: int) -> None:
        while not ended.is_set():
            by_worker[worker].append(answered(pair, len(by_worker[worker]) + worker))

    with ThreadPoolExecutor(WORKERS + 1) as pool:
        for done in [pool.submit(promote_in_turn), *(pool.submit(ask, worker) for worker in range(WORKERS))]:
            done.result()
    found = [each for one in by_worker for each in one]
    assert {release for release, _, _ in found} == {RELEASE, OTHER}
    for release, text, request_id in found:
        row = pair.world.row(request_id)
        assert (row["release_id"], row["route"], row["reason"]) == (release, "student", "confident")
        assert (text, row["score"]) == (ANSWERS[release], pytest.approx(SCORES[release]))
    switches = sum(one[0] != other[0] for one, other in itertools.pairwise(found))
    assert switches >= WORKERS * (PROMOTIONS - 1)
