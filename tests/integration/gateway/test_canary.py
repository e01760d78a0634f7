"""A release on trial: its share of the conversations, one release for each, and a shadow that nobody sees."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill.canary import CanaryWatch
from distill.canary_settings import CanarySettings
from gateway.app import GatewayConfig
from ledger import canaries, labels, releases, replicas
from ledger.artifacts import seal
from ledger.canaries import Mode, Trial
from ledger.canary_rows import NOT_KEPT
from ledger.prices import Tokens, cost_nano
from ledger.requests import get
from ledger.store import now_ms
from router.model import RouterModel
from router.settings import RouterSettings
from tests.gateway_fixtures import (
    EASY,
    HARD,
    RELEASE,
    STUDENT_PRICE,
    SURE,
    World,
    chat_body,
    running_world,
    wait_until,
)
from tests.integration.gateway.test_promotion import of_score
from tests.scripted_upstream import CACHED_TOKENS, PROMPT_TOKENS, Script, ScriptedUpstream

NEW = "rel-2"
OLD_SAYS, NEW_SAYS = "Good day.", "Good night."
ROUTER = RouterSettings(explore_share=1.0, canary_explore_share=1.0)


@dataclass
class Trying:
    """A world with a candidate beside its champion, the candidate's student ready."""

    world: World
    student: ScriptedUpstream

    def begin(self, mode: Mode = "canary", share: float = 1.0) -> canaries.Canary:
        begun = canaries.start(self.world.store, NEW, Trial(mode, share), "test")
        self.ready("ready")
        self.wait_for_trial(True)
        return begun

    def ready(self, state: str) -> None:
        replicas.report(self.world.store, replicas.Replica("replica-2", NEW, self.student.url, state, 0))

    def wait_for_trial(self, is_there: bool) -> None:
        """Until the gateway, which looks twice a second, has seen it."""
        wait_until(lambda: (self.world.app.state.live.snapshot.trial is not None) == is_there)

    def settle(self, request_ids: list[str]) -> None:
        """Until all that is known of these requests is in the ledger."""
        wait_until(lambda: all(get(self.world.store, each) is not None for each in request_ids))


@contextlib.contextmanager
def trying_world(
    home: Path, router: RouterModel, candidate: RouterModel | None = None, **router_settings: Any
) -> Iterator[Trying]:
    def change(config: GatewayConfig) -> GatewayConfig:
        kept = msgspec.structs.replace(config.router, **router_settings)
        return replace(config, router=kept, trial=Trial("canary", 0.5))

    student = ScriptedUpstream()
    with contextlib.ExitStack() as stack:
        stack.callback(student.close)
        world = stack.enter_context(running_world(home, router, change))
        folder = home / "releases" / NEW
        (candidate or of_score(router, 0.75)).save(folder / "router")
        release = releases.Release(NEW, "candidate", now_ms(), None, RELEASE, None, str(folder), seal(folder, {}), {})
        releases.add(world.store, release)
        world.student.reset(Script(text=OLD_SAYS, logprob=SURE))
        world.teacher.reset(Script(text=OLD_SAYS))
        student.reset(Script(text=NEW_SAYS, logprob=SURE))
        yield Trying(world, student)


@pytest.fixture
def trying(router: RouterModel, tmp_path: Path) -> Iterator[Trying]:
    with trying_world(tmp_path, router) as found:
        yield found


@pytest.fixture
def exploring(router: RouterModel, tmp_path: Path) -> Iterator[Trying]:
    with trying_world(tmp_path, router, canary_explore_share=1.0) as found:
        yield found


def released(trying: Trying, messages: list[dict[str, str]], **fields: Any) -> str:
    body = chat_body(**fields) | {"messages": messages}
    answer = trying.world.client.post(
        f"{trying.world.url}/v1/chat/completions", json=body, headers=trying.world.headers()
    )
    assert answer.status_code == 200
    return answer.headers["x-stillroom-release"]


def test_a_share_of_the_conversations_is_answered_by_the_new_release_and_says_so(trying: Trying):
    trying.begin(share=0.3)
    ids = []
    for number in range(200):
        answer = trying.world.chat(f"{EASY} {number}")
        says = answer.json()["choices"][0]["message"]["content"]
        ids.append((answer.headers["x-request-id"], answer.headers["x-stillroom-release"]))
        assert says == (NEW_SAYS if ids[-1][1] == NEW else OLD_SAYS)
    taken = sum(release == NEW for _, release in ids)
    # 60 expected, 6.5 their standard deviation
    assert 34 <= taken <= 86
    trying.settle([request_id for request_id, _ in ids])
    assert all(trying.world.row(request_id)["release_id"] == release for request_id, release in ids)


def test_one_conversation_has_one_release_however_long_it_goes_on(trying: Trying):
    trying.begin(share=0.5)
    seen = set()
    for number in range(24):
        messages = [{"role": "user", "content": f"{EASY} {number}"}]
        first = released(trying, messages)
        for turn in range(3):
            messages += [{"role": "assistant", "content": "Yes?"}, {"role": "user", "content": f"and then {turn}"}]
            assert released(trying, messages, stream=bool(turn % 2)) == first
        seen.add(first)
    assert seen == {RELEASE, NEW}


def test_end_users_who_begin_alike_are_not_all_on_the_same_side(trying: Trying):
    trying.begin(share=0.5)
    messages = [{"role": "user", "content": EASY}]
    assert {released(trying, messages, user=f"user {number}") for number in range(24)} == {RELEASE, NEW}


def test_the_champion_takes_all_while_the_candidate_cannot_answer(trying: Trying):
    begun = trying.begin()
    assert released(trying, [{"role": "user", "content": EASY}]) == NEW
    trying.ready("down")
    trying.wait_for_trial(False)
    assert released(trying, [{"role": "user", "content": EASY}]) == RELEASE
    canaries.finish(trying.world.store, begun, "stopped", "test")
    router_file = next((trying.world.home / "releases" / NEW / "router").glob("*.json"))
    router_file.write_text("{")
    trying.world.app.state.live._routers.pop(NEW, None)
    canaries.start(trying.world.store, NEW, Trial("canary", 1.0), "test")
    trying.ready("ready")
    assert trying.world.app.state.live.load().trial is None
    assert released(trying, [{"role": "user", "content": EASY}]) == RELEASE


def test_failures_of_the_candidate_do_not_make_the_champion_distrusted(trying: Trying):
    trying.begin(share=0.5)
    trying.student.reset(Script(status=500, body=b"{}"))
    answers = [trying.world.chat(f"{EASY} {number}") for number in range(60)]
    assert {answer.status_code for answer in answers} == {200}
    by_release = {RELEASE: set(), NEW: set()}
    for answer in answers:
        by_release[answer.headers["x-stillroom-release"]].add(answer.headers["x-stillroom-reason"])
    assert by_release == {RELEASE: {"confident"}, NEW: {"student_down"}}


def test_a_bad_candidate_is_taken_back_by_itself_and_the_champion_has_all_again(exploring: Trying):
    exploring.begin(share=0.5)
    ids = [exploring.world.chat(f"{EASY} {number}").headers["x-request-id"] for number in range(160)]
    exploring.settle(ids)
    new = [each for each in ids if exploring.world.row(each)["release_id"] == NEW]
    exploring.settle([f"{each}-explore" for each in new])
    # beside the champion's own labels, of which this world asks for none
    old = [each for each in ids if each not in new]
    labels.add(exploring.world.store, [_label(each) for each in old])
    found = CanaryWatch(exploring.world.store, CanarySettings(), ROUTER).look()
    assert found is not None
    assert (found.decision, found.rules[0].candidate, found.rules[0].champion) == ("roll_back", 0.0, 1.0)
    exploring.wait_for_trial(False)
    assert released(exploring, [{"role": "user", "content": EASY}]) == RELEASE
    assert releases.get(exploring.world.store, NEW).state == "rolled_back"


def _label(request_id: str) -> labels.Label:
    return labels.Label(
        request_id=request_id, source="explore", created_at=now_ms(), release_id=RELEASE, comparator="exact",
        agreement=1.0, propensity=1.0,
    )  # fmt: skip


def test_a_good_candidate_is_promoted_by_itself(exploring: Trying):
    exploring.begin(share=0.5)
    exploring.student.reset(Script(text=OLD_SAYS, logprob=SURE))
    ids = [exploring.world.chat(f"{EASY} {number}").headers["x-request-id"] for number in range(360)]
    exploring.settle(ids)
    new = [each for each in ids if exploring.world.row(each)["release_id"] == NEW]
    exploring.settle([f"{each}-explore" for each in new])
    labels.add(exploring.world.store, [_label(each) for each in ids if each not in new])
    # so few requests show this much and no more
    wide = CanarySettings(
        min_requests=20, agreement_margin=0.2, error_margin=0.2, escalation_margin=0.2, latency_ratio=1000.0
    )
    found = CanaryWatch(exploring.world.store, wide, ROUTER).look()
    assert found is not None
    assert found.decision == "promote", found
    assert (releases.live(exploring.world.store) or found).id == NEW  # type: ignore[union-attr]
    wait_until(lambda: exploring.world.app.state.live.snapshot.release.id == NEW)
    exploring.wait_for_trial(False)
    assert released(exploring, [{"role": "user", "content": EASY}]) == NEW


@pytest.mark.parametrize("stream", [False, True])
def test_a_shadow_is_never_shown_and_is_compared_with_the_teacher(exploring: Trying, stream: bool):
    exploring.begin("shadow")
    exploring.student.reset(Script(text=NEW_SAYS, logprob=SURE, delay=0.3))
    answer = exploring.world.chat(EASY, stream=stream)
    assert (answer.headers["x-stillroom-release"], NEW_SAYS in answer.text) == (RELEASE, False)
    request_id = answer.headers["x-request-id"]
    row, content = exploring.world.recorded(f"{request_id}-canary")
    assert (row["release_id"], row["route"], row["reason"], row["error_code"]) == (NEW, "student", "explore", None)
    assert (row["baseline_nano"], row["cost_nano"]) == (
        0, cost_nano(STUDENT_PRICE, Tokens(PROMPT_TOKENS, 2, CACHED_TOKENS))
    )  # fmt: skip
    assert content is not None
    assert (content.answer, content.student_answer) == (OLD_SAYS, NEW_SAYS)
    (label,) = labels.of_request(exploring.world.store, f"{request_id}-canary")
    assert (label.source, label.agreement, label.propensity, label.release_id) == ("canary", 0.0, 1.0, NEW)
    (champions,) = labels.of_request(exploring.world.store, request_id)
    assert (champions.source, champions.agreement, champions.release_id) == ("explore", 1.0, RELEASE)
    # the client's answer had gone before the shadow's was there
    assert exploring.world.row(request_id)["latency_ms"] < row["latency_ms"]


def test_a_shadow_of_a_teachers_answer_asks_no_teacher_again(exploring: Trying):
    exploring.begin("shadow")
    answer = exploring.world.chat(HARD)
    assert answer.headers["x-stillroom-reason"] == "hard"
    exploring.world.recorded(f"{answer.headers['x-request-id']}-canary")
    (label,) = labels.of_request(exploring.world.store, f"{answer.headers['x-request-id']}-canary")
    assert (label.source, label.agreement, label.propensity) == ("canary", 0.0, 1.0)
    assert len(exploring.world.teacher.seen) == 1


def test_without_a_teachers_answer_a_shadow_is_compared_with_what_was_shown(router: RouterModel, tmp_path: Path):
    with trying_world(tmp_path, router, canary_explore_share=0.0) as trying:
        trying.begin("shadow")
        request_id = trying.world.chat(EASY).headers["x-request-id"]
        _, content = trying.world.recorded(f"{request_id}-canary")
        (label,) = labels.of_request(trying.world.store, f"{request_id}-canary")
        assert (label.source, label.agreement, content) == ("shown", 0.0, None)
        assert trying.world.teacher.seen == []


def test_a_shadow_that_fails_is_a_failure_of_the_candidate_alone(exploring: Trying):
    exploring.begin("shadow")
    exploring.student.reset(Script(status=500, body=b"{}"))
    answer = exploring.world.chat(EASY)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "confident")
    row = exploring.world.row(f"{answer.headers['x-request-id']}-canary")
    assert (row["status"] >= 500, row["release_id"], row["cost_nano"]) == (True, NEW, 0)


def test_what_a_shadow_would_not_have_kept_is_marked(router: RouterModel, tmp_path: Path):
    usual = of_score(router, 0.75)
    cautious = replace(usual, thresholds=replace(usual.thresholds, hard=0.9))
    with trying_world(tmp_path, router, cautious) as trying:
        trying.begin("shadow")
        request_id = trying.world.chat(EASY).headers["x-request-id"]
        row, content = trying.world.recorded(f"{request_id}-canary")
        assert (row["error_code"], row["status"], content) == (NOT_KEPT, 200, None)
        assert labels.of_request(trying.world.store, f"{request_id}-canary") == []


@pytest.mark.parametrize("headers", [{"x-stillroom-log": "off"}, {"x-stillroom-route": "teacher"}])
def test_what_may_not_be_learned_from_is_not_shadowed(exploring: Trying, headers: dict[str, str]):
    exploring.begin("shadow")
    request_id = exploring.world.chat(EASY, headers).headers["x-request-id"]
    exploring.settle([f"{exploring.world.chat(EASY).headers['x-request-id']}-canary"])
    assert get(exploring.world.store, f"{request_id}-canary") is None


def test_a_canary_is_begun_shown_stopped_and_promoted_by_the_admin_api(trying: Trying):
    world, url = trying.world, f"{trying.world.url}/admin/v1/canary"

    def post(path: str = "", scope: str = "admin", **body: Any) -> Any:
        return world.client.post(url + path, json=body, headers=world.headers(scope))

    assert world.get("/admin/v1/canary").json() == {"canary": None}
    assert post("/stop").status_code == 400
    assert [post(scope=scope, release=NEW).status_code for scope in ("inference", "read")] == [403, 403]
    assert [post(release=NEW, share=share).status_code for share in (0, 1.5)] == [400, 400]
    begun = post(release=NEW, share=0.25)
    assert (begun.status_code, begun.json()["canary"]["share"]) == (201, 0.25)
    assert post(release=NEW).status_code == 400
    trying.ready("ready")
    trying.wait_for_trial(True)
    assert "stillroom_canary_share 0.25" in world.client.get(f"{world.url}/metrics").text
    assert post("/stop").json()["canary"]["outcome"] == "stopped"
    assert post(release=NEW, mode="shadow").status_code == 201
    assert post("/promote").json()["canary"]["outcome"] == "promoted"
    assert world.get("/admin/v1/canary", "read").json()["canary"]["mode"] == "shadow"
    assert (releases.live(world.store) or begun).id == NEW  # type: ignore[union-attr]


def test_figures_of_the_newest_look_are_in_the_metrics(trying: Trying):
    trying.begin()
    CanaryWatch(trying.world.store, CanarySettings(), ROUTER).look()
    trying.world.row(trying.world.chat(EASY).headers["x-request-id"])
    CanaryWatch(trying.world.store, CanarySettings(), ROUTER).look()
    line = 'stillroom_canary{rule="errors",side="candidate"} 0.0'
    wait_until(lambda: line in trying.world.client.get(f"{trying.world.url}/metrics").text)
