"""``/ops/distillation``, ``/ops/jobs/{id}`` and ``/ops/releases`` as the composed gateway serves them."""

import csv
import html
import io
import re

import pytest

from ledger import canaries, jobs, releases, retention
from ledger.records import NANO
from ledger.release_history import saved_by_release
from ledger.requests import insert_records
from ledger.retention import amend_summary
from ledger.store import now_ms
from tests.integration.dashboards.distilled import a_job, a_release, on_trial, training, with_a_past
from tests.integration.dashboards.test_ops import Page
from tests.unit.ledger.rows import row


@pytest.fixture
def past(ops, tmp_path):
    ops.jobs = with_a_past(ops.store, tmp_path / "releases")
    return ops


def text_of(answer) -> str:
    """What is said on a page, without its tags."""
    assert answer.status_code == 200
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


def confirmations(text: str) -> list[str]:
    return [html.unescape(each) for each in re.findall(r'hx-confirm="([^"]*)"', text)]


def test_an_empty_ledger_has_pages_that_say_what_to_do(ops):
    assert "No job yet" in text_of(ops.get("/ops/distillation"))
    assert "No release is live" in text_of(ops.get("/ops/releases"))
    counted = ops.get("/ops/distillation/preview", "admin")
    assert "A job would fail: 0 answers" in text_of(counted)
    assert "hx-post" not in counted.text


@pytest.mark.parametrize(
    "path",
    ["/ops/jobs/job_no", "/ops/jobs/job_no/part", "/ops/releases/no", "/ops/releases/no/report",
     "/ops/distillation?before=job_no", "/ops/releases?before=no"],
)  # fmt: skip
def test_what_is_not_there_is_said_to_be_missing(ops, path):
    assert ops.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/ops/distillation", "/ops/distillation/preview", "/ops/jobs/x", "/ops/releases", "/ops/releases/x/report"],
)
def test_a_page_takes_a_key_that_may_read(ops, path):
    ops.client.follow_redirects = False
    assert ops.get(path, None).status_code == 303
    assert ops.get(path, "inference").status_code == 403


def test_the_preview_counts_the_ledger_and_says_what_a_job_takes_and_costs(past):
    shown = text_of(past.get("/ops/distillation/preview"))
    for words in (
        "Answers of the teacher 151 all that there are", "Of them usable 150 no corrections yet",
        "Rows to train on about 90", "100 are needed", "Time about", "by the rows and the time of the last job",
        "its hours have no price", "Comparing answers about 0.00",
    ):  # fmt: skip
        assert words in shown
    assert "keep it from training 1" in shown
    assert "A job may fail: perhaps 90 rows" in shown


def test_only_who_may_change_is_offered_a_job_and_it_is_confirmed_in_words(past):
    assert "hx-post" not in past.get("/ops/distillation/preview").text
    (words,) = confirmations(past.get("/ops/distillation/preview", "admin").text)
    for part in (
        "about 90 rows",
        "waits for approval",
        "Nothing changes for callers",
        "It takes",
        "Comparing answers",
    ):
        assert part in words


def test_a_slice_is_previewed_by_its_filters_and_goes_into_the_job(past):
    insert_records(past.store, [row(f"x{i}", created_at=now_ms(), tags=["billing"]) for i in range(140)])
    shown = past.get("/ops/distillation/preview?tags=billing,%20refunds&since=30d&max_examples=", "admin").text
    assert "has none of the tags" in shown
    body = html.unescape(re.search(r'data-body="([^"]*)"', shown)[1])
    answer = past.client.post(
        "/admin/v1/jobs", content=body, headers={"authorization": f"Bearer {past.secrets['admin']}"}
    )
    assert answer.status_code == 202
    assert answer.json()["settings"] == {"tags": ["billing", "refunds"], "since": "30d"}
    assert "Such a job cannot be made" in text_of(past.get("/ops/distillation/preview?since=whenever"))


def test_a_ledger_that_is_away_is_said_to_be(past, monkeypatch):
    with past.store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE requests RENAME TO gone")
    assert "The ledger could not be read" in text_of(past.get("/ops/distillation/preview"))


def test_the_jobs_are_listed_page_by_page_in_words_and_as_csv(past, monkeypatch):
    shown = text_of(past.get("/ops/distillation"))
    for words in ("waits for approval", "its release went live", "failed", "the disk is full"):
        assert words in shown
    for i in range(30):
        jobs.create_once(past.store, f"more {i}", "manual", "ann", {})
    first = past.get("/ops/distillation?state=queued").text
    older = html.unescape(re.search(r'<a href="([^"]+)">Older ones', first)[1])
    second = past.get(older).text
    found = [set(re.findall(r"/ops/jobs/(job_\w+)", text)) for text in (first, second)]
    assert [len(each) for each in found] == [25, 5]
    assert found[0].isdisjoint(found[1])
    rows = list(csv.DictReader(io.StringIO(past.get("/ops/distillation?format=csv&state=failed").text)))
    assert [(each["state"], each["cause"]) for each in rows] == [("failed", "the disk is full")]


def test_what_starts_jobs_by_itself_is_shown_and_what_holds_them_back(past):
    shown = text_of(past.get("/ops/distillation"))
    assert "cool-down since the last job holds jobs back" in shown
    assert "distill.triggers.schedule not set" in shown
    assert "rise of the escalation rate off" in shown


@pytest.mark.parametrize(
    ("state", "words", "buttons"),
    [("failed", "the disk is full", []), ("live", "its release went live", []),
     ("waiting", "waits for approval", ["approve", "reject", "cancel"])],
)  # fmt: skip
def test_a_job_offers_what_its_state_allows(past, state, words, buttons):
    path = f"/ops/jobs/{past.jobs[state]}"
    assert "hx-post" not in past.get(path).text
    answer = past.get(path, "admin")
    assert words in text_of(answer)
    assert re.findall(r'hx-post="/admin/v1/jobs/\w+/(\w+)"', answer.text) == buttons
    assert ("data-events" in answer.text) == (state == "waiting")
    assert len(confirmations(answer.text)) == len(buttons)


def test_a_job_shows_its_stages_its_losses_its_log_and_its_gate(past):
    answer = past.get(f"/ops/jobs/{past.jobs['waiting']}")
    shown = text_of(answer)
    for words in (
        "Training done", "Approval now", "Live ahead", "holds agreement floor 0.91 0.5", "FAILS max kl not measured",
        "dataset: 60 rows to train on, 20 held out, 20 dropped", "max_examples 50", "its whole report",
    ):  # fmt: skip
        assert words in shown
    assert '"series": [{"name": "loss"' in answer.text
    assert "<i>a note" not in answer.text
    assert "<b>" not in answer.text


def test_a_running_job_shows_how_far_it_is_and_how_long_it_will_take(past):
    job = a_job(past.store, "running", "training")
    jobs.add_event(past.store, job, "training", training(80))
    answer = past.get(f"/ops/jobs/{job}/part")
    assert "step 80 of 200" in text_of(answer)
    assert "about 2 min left" in text_of(answer)
    assert '<progress max="200" value="80"' in answer.text


def test_events_of_another_version_are_shown_as_they_are(past):
    job = a_job(past.store, "strange", "training")
    jobs.add_event(past.store, job, "unheard", {"of": 3, "deep": {}})
    jobs.add_event(past.store, job, "check", {"passed": True})
    shown = text_of(past.get(f"/ops/jobs/{job}/part"))
    assert "of 3" in shown
    assert "passed True" in shown


def test_the_report_is_served_under_a_policy_of_its_own_once_it_is_verified(past, tmp_path):
    answer = past.get("/ops/releases/r-new/report")
    assert answer.status_code == 200
    assert "Evaluation of r-new" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script-src" not in policy
    file = tmp_path / "releases" / "r-new" / "report.html"
    file.write_text("<script>alert(1)</script>")
    changed = past.get("/ops/releases/r-new/report")
    assert changed.status_code == 404
    assert "is not what was released" in changed.text
    amend_summary(past.store, "r-new", {"pruned_at": 1})
    assert "its files were deleted" in past.get("/ops/releases/r-new/report").text


def test_releases_have_their_lineage_and_what_each_saved(past):
    saved = saved_by_release(past.store)["r-live"]
    page = Page(past.get("/ops/releases").text)
    assert page.figures["Live release"] == "r-live"
    assert page.figures["Saved so far"] == f"{saved.saved_nano / NANO:,.2f}" == "120.00"
    assert "(95\u00a0%), spread of" in page.notes["Saved so far"]
    shown = text_of(past.get("/ops/releases"))
    assert "r-live live" in shown
    assert "90.0% (85.0% to 95.0%, n = 20)" in shown
    rows = {each["release"]: each for each in csv.DictReader(io.StringIO(past.get("/ops/releases?format=csv").text))}
    assert (rows["r-live"]["saved"], rows["r-live"]["parent"], rows["r-new"]["saved"]) == ("120", "r-first", "")
    assert float(rows["r-live"]["saved at least"]) < 120 < float(rows["r-live"]["saved at most"])


@pytest.mark.parametrize("cost", ["12.50", "0", ""])
def test_the_day_of_payback_is_reckoned_from_what_training_cost(past, cost):
    page = Page(past.get(f"/ops/releases?training_cost={cost}").text)
    assert "Saved a day" in page.figures
    assert ("Pays for itself on" in page.figures) == (cost == "12.50")


def test_a_cost_that_is_none_is_said_to_be(past):
    shown = text_of(past.get("/ops/releases?training_cost=%3Cmuch%3E"))
    assert "<much> is no cost" in shown


def test_the_trial_is_shown_with_the_figures_of_its_test(past):
    on_trial(past.store)
    shown = text_of(past.get("/ops/releases", "admin"))
    for words in (
        "agreement 95.0% 97.0% -1.0% to +5.0% worse by 3.0% at most 20 and 30 open",
        "latency 120 ms 100 ms 0.80 times to 1.40 times at most 1.5 times 40 and 360 shown to hold",
        "errors 0.0% 1.0% - worse by 1.0% at most 40 and 360 shown to hold", "25% of the conversations",
        "not shown to hold: agreement",
    ):  # fmt: skip
        assert words in shown
    assert "canary/stop" in past.get("/ops/releases", "admin").text
    assert "canary/stop" not in past.get("/ops/releases").text
    assert "It is on trial" in text_of(past.get("/ops/releases/r-new", "admin"))
    assert "is tried" in text_of(past.get("/ops/distillation"))
    canaries.finish(past.store, canaries.current(past.store), "stopped", "ann")
    assert "stopped by hand" in text_of(past.get("/ops/releases/r-new"))


def test_a_release_offers_what_its_state_allows(past, tmp_path):
    def offered(name: str, scope: str = "admin") -> list[str]:
        return re.findall(r'hx-post="/admin/v1/([\w/-]+)"', past.get(f"/ops/releases/{name}", scope).text)

    assert offered("r-first", "read") == []
    assert offered("r-first") == ["releases/r-first/promote", "releases/r-first/pin", "canary"]
    assert offered("r-live") == ["releases/r-live/pin"]
    # its job waits for a decision, and would go on waiting
    assert offered("r-new") == ["releases/r-new/pin"]
    retention.pin(past.store, "r-first", True, "ann")
    assert "releases/r-first/unpin" in offered("r-first")
    a_release(past.store, tmp_path / "more", "r-bad", state="rejected")
    assert offered("r-bad") == ["releases/r-bad/pin"]
    amend_summary(past.store, "r-first", {"pruned_at": 1})
    assert offered("r-first") == []


def test_a_button_says_what_it_does(past):
    (promote, _, _) = confirmations(past.get("/ops/releases/r-first", "admin").text)
    assert "r-live is retired" in promote
    assert "does not bring it back" in promote
    rollback = confirmations(past.get("/ops/releases", "admin").text)[0]
    assert "r-first is live again" in rollback
    releases.rollback(past.store, "ann")
    assert "no release before it" in text_of(past.get("/ops/releases", "admin"))
