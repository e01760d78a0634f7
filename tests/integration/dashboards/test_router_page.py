"""``/ops/router`` and ``/admin/v1/router/thresholds``: what is shown is the log's, and what is set is decided by."""

import csv
import html
import io
import json
import re
import time

import pytest

from gateway.budgets import Budgets
from gateway.elsewhere import Elsewhere
from gateway.live import Live
from ledger import audit, releases
from ledger.records import NANO
from ledger.spending import SpendReader
from serving.settings import StudentSettings
from tests.gateway_fixtures import EASY, RELEASE, SURE, go_live, running_world
from tests.integration.dashboards.routed import DAYS, ROWS, infeasible, priced, second_release, with_traffic
from tests.integration.dashboards.test_distillation_pages import confirmations, text_of
from tests.scripted_upstream import Script

PATH = "/admin/v1/router/thresholds"
STRICTER = {"hard": 0.8, "confident": 0.9, "confident_end": 0.9}
LAXER = {"hard": 0.2, "confident": 0.3, "confident_end": 0.3}
NOTHING_PASSES = {"hard": 2, "confident": 2, "confident_end": 2}


@pytest.fixture
def composed(tmp_path):
    with priced(tmp_path) as composed:
        yield composed


@pytest.fixture
def routed(composed, router, ops):
    with_traffic(composed.store, composed.home / "release", router)
    return known(ops)


def known(ops):
    """The live release's router is read every half second; ask until it is."""
    wait(lambda: ask(ops, "GET", scope="read").status_code != 503)
    return ops


def wait(condition, tries: int = 200) -> None:
    for _ in range(tries):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def ask(ops, method: str, body=None, scope: str = "admin"):
    return ops.client.request(method, PATH, json=body, headers={"authorization": f"Bearer {ops.secrets[scope]}"})


def bars(thresholds) -> dict:
    return {name: thresholds[name] for name in ("hard", "confident", "confident_end", "sure")}


def changes(store) -> list[dict]:
    return [each for each in audit.entries(store) if each["action"].startswith("router.")]


# setting them


def test_stricter_thresholds_are_set_with_the_guarantee_and_audited_and_undone(routed):
    own = ask(routed, "GET", scope="read").json()
    assert (own["release"], own["set"], own["guaranteed"], own["in_force"]) == (RELEASE, None, True, own["own"])
    answer = ask(routed, "PUT", STRICTER | {"release": RELEASE})
    assert answer.status_code == 200
    found = answer.json()
    assert bars(found["in_force"]) == STRICTER | {"sure": 2.0}
    assert (found["own"], found["guaranteed"]) == (own["own"], True)
    assert found["set"]["actor"].startswith("key_")
    assert ask(routed, "GET", scope="read").json() == found
    done = ask(routed, "DELETE")
    assert (done.status_code, done.json()) == (200, own)
    assert ask(routed, "DELETE").json() == own
    undone, was_set = changes(routed.store)
    assert (was_set["action"], was_set["subject"]) == ("router.thresholds.set", RELEASE)
    assert was_set["detail"] == {"before": bars(own["own"]), "after": STRICTER | {"sure": 2.0}, "guaranteed": True}
    assert undone["action"] == "router.thresholds.undo"
    assert (undone["detail"]["before"], undone["detail"]["after"]) == (
        was_set["detail"]["after"], was_set["detail"]["before"],
    )  # fmt: skip


def test_laxer_thresholds_are_refused_unless_the_loss_of_the_guarantee_is_accepted(routed):
    answer = ask(routed, "PUT", LAXER)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("guarantee_lost", "accept_without_guarantee")
    assert "97.0% with 90% confidence: the guarantee would be lost" in error["message"]
    assert ask(routed, "GET").json()["set"] is None
    assert changes(routed.store) == []
    found = ask(routed, "PUT", LAXER | {"accept_without_guarantee": True}).json()
    assert (found["guaranteed"], found["set"]["guaranteed"], found["in_force"]["feasible"]) == (False, False, True)
    assert found["in_force"]["agreement_lower_bound"] == 0
    assert changes(routed.store)[0]["detail"]["guaranteed"] is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hard": 3}, "hard"),
        ({"confident": -0.1}, "confident"),
        ({"confident_end": "high"}, "confident_end"),
        ({"hard": None}, "hard"),
        ({"sure": 0.1}, "sure (0.1) must not be below hard (0.8)"),
        ({"threshold": 0.5}, "threshold"),
        ({"release": "rel-9"}, "meant for rel-9, and rel-1 is live"),
        ({"accept_without_guarantee": "yes"}, "accept_without_guarantee"),
    ],
)
def test_what_cannot_be_set_is_refused_in_a_line_and_changes_nothing(routed, change, said):
    answer = ask(routed, "PUT", STRICTER | change)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert ask(routed, "GET").json()["set"] is None


def test_a_body_must_name_the_thresholds(routed):
    assert ask(routed, "PUT", {}).status_code == 400
    headers = {"authorization": f"Bearer {routed.secrets['admin']}"}
    body = b'{"hard": NaN, "confident": 1, "confident_end": 1}'
    assert routed.client.put(PATH, content=body, headers=headers).status_code == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_who_may_only_read_changes_nothing(routed, method):
    assert ask(routed, method, STRICTER, scope="read").status_code == 403
    assert ask(routed, "GET", scope="inference").status_code == 403


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_without_a_live_release_there_are_no_thresholds(ops, method):
    answer = ask(ops, method, STRICTER)
    assert answer.status_code == 404
    assert "no live release" in answer.json()["error"]["message"]


def test_a_release_that_promises_nothing_takes_thresholds_only_without_a_guarantee(composed, router, ops):
    with_traffic(composed.store, composed.home / "release", infeasible(router))
    known(ops)
    assert "were shown to keep" in ask(ops, "PUT", STRICTER).json()["error"]["message"]
    assert ask(ops, "PUT", NOTHING_PASSES).json()["guaranteed"] is True
    assert ask(ops, "PUT", STRICTER | {"accept_without_guarantee": True}).json()["in_force"]["feasible"] is True
    assert ask(ops, "DELETE").json()["in_force"]["feasible"] is False


def test_another_gateway_process_decides_by_them_at_its_next_look(routed, tmp_path):
    other = Live(
        routed.store,
        Elsewhere(StudentSettings(base_url="http://127.0.0.1:1/v1")),
        Budgets(SpendReader(routed.store)),
        tmp_path / "cache",
    )
    before = other.load().release
    ask(routed, "PUT", STRICTER)
    after = other.load().release
    assert (after.router.thresholds.hard, after.router.thresholds.confident) == (0.8, 0.9)
    assert after.own_thresholds == before.own_thresholds == before.router.thresholds
    ask(routed, "DELETE")
    assert other.load().release.router.thresholds == before.router.thresholds


def test_thresholds_go_with_their_release(routed, router, tmp_path):
    ask(routed, "PUT", STRICTER)
    second_release(routed.store, tmp_path / "two", router)
    wait(lambda: ask(routed, "GET").status_code == 200)
    assert (ask(routed, "GET").json()["release"], ask(routed, "GET").json()["set"]) == ("rel-2", None)
    releases.rollback(routed.store, "test")
    wait(lambda: ask(routed, "GET").status_code == 200)
    assert bars(ask(routed, "GET").json()["in_force"]) == STRICTER | {"sure": 2.0}


def test_the_next_request_is_decided_by_the_thresholds_that_were_set(router, tmp_path):
    with running_world(tmp_path, router) as world:
        world.student.reset(Script(text="Good day.", logprob=SURE))
        world.teacher.reset(Script(text="Good day to you."))

        def reason() -> str:
            return world.chat(EASY).headers["x-stillroom-reason"]

        def change(method: str, body=None) -> int:
            return world.client.request(
                method, world.url + PATH, json=body, headers=world.headers("admin")
            ).status_code

        assert reason() == "confident"
        assert change("PUT", NOTHING_PASSES) == 200
        assert reason() == "hard"
        assert change("PUT", {"hard": 0.5, "confident": 2, "confident_end": 2}) == 200
        assert reason() == "low_confidence"
        found = world.get("/admin/v1/router/curve").json()
        assert found["thresholds"]["confident"] == 2
        assert change("DELETE") == 200
        assert reason() == "confident"


# the page


def points(text: str) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="points">(.*?)</script>', text, re.DOTALL)[1])


def curve(ops) -> dict:
    headers = {"authorization": f"Bearer {ops.secrets['read']}"}
    return ops.client.get("/admin/v1/router/curve?points=41", headers=headers).json()


def test_the_page_shows_what_the_curve_of_the_admin_api_says(routed):
    shown = text_of(routed.get("/ops/router/estimates"))
    report = curve(routed)
    now = report["in_force"]["dr"]
    assert report["labelled"] > 100
    bounds = f"{now['low']:.1%} to {now['high']:.1%} (95 %), n = {now['labels']:,} labels"
    for part in (
        f"Agreement now {now['agreement']:.1%} {bounds}",
        f"To the teacher now {now['teacher_share']:.1%} n = {ROWS:,} requests",
        f"Labels {report['labelled']:,}",
        f"Calibration error {report['score_calibration_error']:.1%}",
    ):  # fmt: skip
        assert part in shown
    found = points(routed.get("/ops/router/estimates").text)
    assert len(found) > 10
    assert [each["now"] for each in found].count(True) == 1
    shares = {f"{point['teacher_share']:.1%}" for point in (*report["curve"], now)}
    assert all(re.match(r"teacher ([\d.]+%)", each["name"])[1] in shares for each in found)


def test_a_month_s_cost_is_the_estimate_for_a_request_as_often_as_they_came(routed):
    shown = text_of(routed.get("/ops/router/estimates"))
    month = float(re.search(r"A month now ([\d,.]+)", shown)[1].replace(",", ""))
    cost = curve(routed)["in_force"]["dr"]["cost"]
    days = float(re.search(r"decided requests of ([\d.]+) days", shown)[1])
    assert days == DAYS
    assert month == pytest.approx(round(cost * NANO) / NANO * ROWS * 30 / DAYS, rel=0.03)


def test_every_point_of_the_slider_can_be_set_as_it_says_and_no_guarantee_is_lost_silently(routed):
    found = points(routed.get("/ops/router/estimates", "admin").text)
    assert {each["kept"] for each in found} == {True, False}
    for each in found:
        assert each["confirm"].startswith(f"Set these thresholds for {RELEASE}? ")
        assert each["said"] in each["confirm"]
        assert ("No guarantee" in each["said"]) == (not each["kept"])
        assert each["body"].get("accept_without_guarantee", False) == (not each["kept"])
        answer = ask(routed, "PUT", each["body"])
        assert (answer.status_code, answer.json()["guaranteed"]) == (200, each["kept"])
    strictest = found[-1]
    assert "The teacher answers 100.0%" in strictest["said"]
    assert "The teacher answers 0.0%" in found[0]["said"]


def test_thresholds_that_were_set_are_said_to_be_and_what_undoing_would_do(routed):
    ask(routed, "PUT", STRICTER)
    answer = routed.get("/ops/router", "admin")
    assert "Set by admin at" in text_of(answer)
    assert "Hard below 0.800" in text_of(answer)
    (undo,) = confirmations(answer.text)
    assert "those it came with again: hard 0.500, confident 0.500" in undo
    assert "hx-delete" not in routed.get("/ops/router", "read").text
    estimates = text_of(routed.get("/ops/router/estimates"))
    assert "which undoing sets again: The teacher answers" in estimates
    ask(routed, "PUT", LAXER | {"accept_without_guarantee": True})
    assert "They have no guarantee" in text_of(routed.get("/ops/router"))


def test_a_point_is_chosen_by_its_address_and_only_who_may_change_is_offered_to_set_it(routed):
    answer = routed.get("/ops/router?at=3", "admin")
    assert 'value="3" data-points' in answer.text
    assert points(answer.text)[3]["said"] in html.unescape(answer.text.replace("&#34;", '"'))
    assert "Set these thresholds" in re.sub(r"<[^>]+>", "", answer.text)
    read = routed.get("/ops/router?at=3", "read")
    assert "<button>Set these thresholds" not in read.text
    assert routed.get("/ops/router?at=999", "read").status_code == 200


def test_calibration_and_scores_are_tables_and_csv_too(routed):
    rows = {
        name: list(csv.DictReader(io.StringIO(routed.get(f"/ops/router?format=csv&table={name}").text)))
        for name in ("curve", "score", "confidence", "spread")
    }
    labelled = curve(routed)["labelled"]
    assert sum(int(each["labels"]) for each in rows["score"]) == labelled
    assert sum(float(each["of the traffic"]) for each in rows["score"]) == pytest.approx(1)
    for each in rows["score"]:
        assert float(each["from (95 %)"]) <= float(each["observed"]) <= float(each["to"])
    gap = sum(float(e["of the traffic"]) * abs(float(e["observed"]) - float(e["predicted"])) for e in rows["score"])
    assert gap == pytest.approx(curve(routed)["score_calibration_error"])
    outcomes = ("by the student", "abandoned", "to the teacher at once")
    assert sum(int(each[name]) for each in rows["spread"] for name in outcomes) == ROWS
    assert len(rows["curve"]) == len(points(routed.get("/ops/router/estimates").text))
    assert routed.get("/ops/router?format=csv&table=no").status_code == 404


def test_drift_is_told_in_words_with_its_alarms(routed):
    shown = text_of(routed.get("/ops/router"))
    assert re.search(r"Scores: are the router's scores spread as .*? drifted \d{4}-", shown)
    assert "0.31 above 0.2 500" in shown
    assert "Features: are the requests like those the router was trained on? waits for 500 requests" in shown
    assert re.search(r"Agreement: .*? quiet \d{4}-.* of the student's, [\d.]+% asked, n = \d+ labels", shown)


# nothing to show


def test_without_a_release_the_page_says_what_to_do(ops):
    shown = text_of(ops.get("/ops/router"))
    assert "No release is live" in shown
    assert "Start a job" in shown
    assert "No drift was ever noted" in shown
    assert "No release is live" in text_of(ops.get("/ops/router/estimates"))


def test_without_requests_or_labels_it_says_what_is_missing(composed, router, ops):
    go_live(composed.store, composed.home / "release", router)
    known(ops)
    assert "decided on no request of rel-1 in the last 30 days" in text_of(ops.get("/ops/router/estimates"))


def test_without_labels_nothing_is_estimated_and_the_scores_are_shown(composed, router, ops):
    with_traffic(composed.store, composed.home / "release", router, labelled=False)
    known(ops)
    answer = ops.get("/ops/router/estimates", "admin")
    assert "agreement cannot be estimated" in text_of(answer)
    assert "router.explore_share is 0.05" in text_of(answer)
    assert 'id="point"' not in answer.text
    assert "Requests by their score, and who answered" in text_of(answer)


def test_a_release_without_a_guarantee_says_what_helps(composed, router, ops):
    with_traffic(composed.store, composed.home / "release", infeasible(router))
    known(ops)
    shown = text_of(ops.get("/ops/router"))
    assert "Release rel-1 promises nothing" in shown
    assert "so the teacher answers everything" in shown
    assert "off: no thresholds keep the target" in shown
    found = points(ops.get("/ops/router/estimates", "admin").text)
    assert found[-1]["now"]
    assert not any(each["kept"] for each in found[:-1])


def test_a_ledger_that_is_away_is_said_to_be(routed):
    with routed.store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE requests RENAME TO gone")
    answer = routed.get("/ops/router")
    assert answer.status_code == 503
    assert "The ledger cannot be read now" in answer.text
    assert "The ledger cannot be read now" in text_of(routed.get("/ops/router/estimates"))


@pytest.mark.parametrize("path", ["/ops/router", "/ops/router/estimates"])
def test_the_page_takes_a_key_that_may_read(ops, path):
    ops.client.follow_redirects = False
    assert ops.get(path, None).status_code == 303
    assert ops.get(path, "inference").status_code == 403
