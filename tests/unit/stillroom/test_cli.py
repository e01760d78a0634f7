"""The command line as a shell sees it: what it prints, where, and the exit status."""

import json
import re
import subprocess
import sys

import pytest

from ledger import events, feedback, keys, releases, responses
from ledger.feedback import Feedback
from ledger.keys import digest
from ledger.releases import Release
from ledger.requests import get, insert_records
from ledger.store import now_ms
from tests.unit.ledger.rows import row


def test_a_key_is_made_listed_and_revoked(run, ledger):
    status, secret, err = run("keys", "create", "shop", "--scope", "inference", "--scope", "read")
    assert (status, err) == (0, "")
    secret = secret.strip()
    assert keys.load_active(ledger)[digest(secret)].scopes == ("inference", "read")

    status, out, _ = run("keys", "list", "--json")
    (key,) = json.loads(out)
    assert status == 0
    assert (key["name"], key["scopes"], key["ends in"], key["revoked"]) == ("shop", "inference read", secret[-4:], "")
    assert secret not in out

    status, out, _ = run("keys", "revoke", "shop")
    assert (status, out) == (0, f"revoked {key['id']} (shop)\n")
    assert keys.load_active(ledger) == {}
    assert json.loads(run("keys", "list", "--json")[1])[0]["revoked"] != ""


def test_a_key_has_a_policy_that_is_shown_and_changed(run, ledger):
    words = "--owner ann --tag a --tag b --model auto --route student --default-route student --rpm 5 --tpm 700"
    more = "--concurrent 3 --budget-day 1.5 --budget-month 20 --soft --no-log --expires 2100-01-01T00:00:00Z"
    status, out, err = run("keys", "create", "shop", *f"{words} {more}".split(), "--json")
    assert (status, err) == (0, "")
    made = json.loads(out)
    policy = {
        "owner": "ann", "tags": ["a", "b"], "models": ["auto"], "routes": ["student"], "default_route": "student",
        "requests_per_minute": 5, "tokens_per_minute": 700, "max_concurrent": 3, "budget_day": 1.5,
        "budget_month": 20.0, "budget_kind": "soft", "log_content": False,
    }  # fmt: skip
    assert made["key"]["policy"] == policy
    assert made["key"]["expires_at"] == 4_102_444_800_000
    assert digest(made["secret"]) in keys.load_active(ledger)

    insert_records(ledger, [row("a", key_id=made["key"]["id"], cost_nano=500_000_000, created_at=now_ms())])
    status, out, _ = run("keys", "show", "shop", "--json")
    shown = json.loads(out)
    assert shown["key"] == made["key"]
    assert shown["spend"]["day"] == {"spent": 0.5, "budget": 1.5, "remaining": 1.0}
    table = run("keys", "show", "shop")[1]
    assert "0.5, 1 of 1.5 left" in table
    assert made["key"]["id"] in table

    status, out, _ = run(
        "keys", "update", "shop", "--rpm", "9", "--hard", "--log", "--unset", "owner", "--unset", "tags"
    )
    assert (status, out) == (0, f"updated {made['key']['id']} (shop)\n")
    changed = keys.get(ledger, "shop").policy
    assert (changed.requests_per_minute, changed.owner, changed.tags) == (9, None, ())
    assert (changed.budget_kind, changed.log_content, changed.max_concurrent) == ("hard", True, 3)


def test_a_rotated_key_has_a_new_secret_and_the_old_one_for_a_while(run, ledger):
    old = run("keys", "create", "shop")[1].strip()
    status, out, _ = run("keys", "rotate", "shop", "--overlap", "60")
    new = out.strip()
    assert status == 0
    assert keys.load_active(ledger).keys() == {digest(old), digest(new)}
    made = json.loads(run("keys", "rotate", "shop", "--overlap", "0", "--json")[1])
    assert keys.load_active(ledger).keys() == {digest(made["secret"])}


def test_tables_show_ids_whole_and_names_as_they_are(run, ledger):
    names = ["[/]", "[red]shop[/red]", "x" * 120, "[link=http://a]b"]
    made = [keys.create(ledger, name, ["read"], "test")[0] for name in names]
    status, out, _ = run("keys", "list")
    assert status == 0
    assert all(key.id in out for key in made)
    flat = re.sub(r"\s", "", out)
    assert "[/]" in flat
    assert "…" not in out
    assert out.count("x") >= 120


def test_empty_lists_say_what_to_do_and_are_empty_in_json(run):
    assert run("keys", "list")[1] == "no keys yet; make one with `stillroom keys create NAME`\n"
    assert run("ledger", "stats")[1] == "no requests recorded yet\n"
    assert run("distill", "list")[1] == "no jobs yet; `stillroom distill run` makes one\n"
    for command in (("keys", "list"), ("ledger", "stats"), ("distill", "list")):
        assert json.loads(run(*command, "--json")[1]) == []


def test_the_statistics_are_the_ledgers(run, ledger):
    insert_records(
        ledger,
        [
            row("a", route="student", reason="confident", prompt_tokens=10, completion_tokens=2, latency_ms=7.0,
                cost_nano=1_000_000, baseline_nano=30_000_000),
            row("b", route="student", reason="confident", status=500, cost_nano=500_000, latency_ms=7.0),
            row("c", prompt_tokens=5, cost_nano=20_000_000, baseline_nano=20_000_000, latency_ms=700.0),
        ],
    )  # fmt: skip
    status, out, _ = run("ledger", "stats", "--json")
    student, teacher = json.loads(out)
    assert status == 0
    assert student == {
        "route": "student",
        "reason": "confident",
        "requests": 2,
        "errors": 1,
        "tokens": 12,
        "cost": 0.0015,
        "baseline": 0.03,
        "route p50 ms": student["route p50 ms"],
    }
    assert 5 <= student["route p50 ms"] <= 10
    assert (teacher["route"], teacher["cost"], teacher["tokens"]) == ("teacher", 0.02, 5)
    assert 500 <= teacher["route p50 ms"] <= 1_000


def test_responses_expire_with_the_content(run, ledger):
    responses.save(
        ledger, [responses.StoredResponse("resp_1", 1_000, None, "req_1", None, b'{"response":{},"items":[]}')]
    )
    assert run("ledger", "expire", "--days", "1")[1] == "deleted the content of 0 requests, and 1 responses\n"
    assert responses.get(ledger, "resp_1") is None


def test_content_expires_by_age_and_the_sums_stay(run, ledger):
    insert_records(ledger, [row("old", created_at=1_000)])
    before = run("ledger", "stats", "--json")
    assert run("ledger", "expire", "--days", "36500")[1] == "deleted the content of 0 requests\n"
    assert run("ledger", "expire", "--days", "0.5")[1] == "deleted the content of 1 requests\n"
    assert get(ledger, "old")[1] is None
    assert run("ledger", "stats", "--json") == before


def test_feedback_is_listed_newest_first(run, ledger):
    assert run("ledger", "feedback")[1] == "no feedback yet; clients send it to /v1/feedback\n"
    assert json.loads(run("ledger", "feedback", "--json")[1]) == []
    insert_records(ledger, [row("a", key_id="key_1"), row("b")])
    for request_id, values in (("a", {"score": 0.5}), ("b", {"label": "tone", "correction": "[b]right[/b]"})):
        said = Feedback(id="", created_at=0, request_id=request_id, **values)
        feedback.add(ledger, said, "key_1", anyones=True)
    status, out, _ = run("ledger", "feedback", "--json")
    newest, oldest = json.loads(out)
    assert status == 0
    assert (newest["request"], newest["label"], newest["correction"]) == ("b", "tone", "[b]right[/b]")
    assert (oldest["request"], oldest["key"], oldest["score"], oldest["comment"]) == ("a", "key_1", 0.5, None)
    assert len(json.loads(run("ledger", "feedback", "--json", "--limit", "1")[1])) == 1
    assert run("ledger", "feedback")[0] == 0


def test_events_are_listed_newest_first_and_by_kind(run, ledger):
    assert run("ledger", "events")[1] == "no events yet\n"
    assert run("ledger", "events", "--kind", "drift")[1] == "no events of kind drift yet\n"
    events.add(ledger, "drift", "rel-1", {"drift": "score", "text": "[b]scores[/b] moved"})
    events.add(ledger, "other", "rel-2", {})
    status, out, _ = run("ledger", "events", "--json")
    newest, oldest = json.loads(out)
    assert (status, newest["subject"], oldest["subject"]) == (0, "rel-2", "rel-1")
    assert oldest["data"]["text"] == "[b]scores[/b] moved"
    assert [row["kind"] for row in json.loads(run("ledger", "events", "--kind", "drift", "--json")[1])] == ["drift"]
    status, out, _ = run("ledger", "events", "--limit", "1")
    assert (status, "rel-2" in out, "rel-1" in out) == (0, True, False)


USAGE_ERRORS = [
    (["nosuch"], "No such command 'nosuch'. See `stillroom --help`."),
    (["keys", "create"], "Missing argument 'NAME'. See `stillroom keys create --help`."),
    (["keys", "list", "--nope"], "No such option '--nope'. See `stillroom keys list --help`."),
    (["keys", "list", "--config", "x"], "No such option '--config'."),
    (["ledger", "expire"], "Missing option '--days'."),
    (["ledger", "expire", "--days", "-1"], "Invalid value for '--days': -1.0 is not in the range"),
    (["ledger", "expire", "--days", "1e300"], "Invalid value for '--days': 1e+300 is not in the range"),
    (["ledger", "expire", "--days", "nan"], "Invalid value for '--days': nan is not a number of days."),
    (["keys", "create", "shop", "--rpm", "-1"], "requests_per_minute: Expected `int` >= 0"),
    (["keys", "create", "shop", "--rpm", "x"], "Invalid value for '--rpm'"),
    (["keys", "create", "shop", "--budget-day", "nan"], "budget_day: Expected `float` >= 0.0"),
    (["keys", "create", "shop", "--route", "cloud"], "routes: Invalid enum value 'cloud'"),
    (["keys", "create", "shop", "--expires", "soon"], "expires_at: must be a time as in 2030-01-31T12:00:00Z"),
    (["keys", "update", "shop"], "Nothing to change was given."),
    (["keys", "update", "shop", "--unset", "x"], "Invalid value for '--unset'"),
    (["keys", "create", "shop", "--scope", "root"], "unknown scope root; the scopes are inference, read, admin"),
]


@pytest.mark.parametrize(("arguments", "says"), USAGE_ERRORS, ids=[" ".join(words) for words, _ in USAGE_ERRORS])
def test_a_usage_error_is_one_line_and_status_2(run, arguments, says):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("stillroom: ")
    assert says in err
    assert err.count("\n") == 1


def test_a_settings_error_is_one_line_and_status_2(run, tmp_path):
    (tmp_path / "bad.toml").write_text("[gateway]\nprot = 1")
    for arguments in (["--config", "bad.toml", "keys", "list"], ["--config", "none.toml", "gateway"]):
        status, out, err = run(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
    assert err == "stillroom: there is no settings file none.toml\n"


FAILURES = [
    (["distill", "show", "job_x"], "there is no job 'job_x'; `stillroom distill list` shows them"),
    (["distill", "cancel", "job_x"], "there is no job 'job_x'"),
    (["distill", "approve", "job_x"], "there is no job 'job_x'"),
    (["distill", "promote", "r_x"], "there is no release 'r_x'"),
    (["distill", "rollback"], "there is no live release to roll back"),
    (["keys", "show", "nobody"], "no key named 'nobody'; `stillroom keys list` shows the ids"),
    (["keys", "rotate", "nobody"], "no active key named 'nobody'; `stillroom keys list` shows the ids"),
    (["keys", "update", "nobody", "--rpm", "1"], "no active key named 'nobody'; `stillroom keys list` shows the ids"),
    (["keys", "revoke", "nobody"], "no active key named 'nobody'; `stillroom keys list` shows the ids"),
]


@pytest.mark.parametrize(("arguments", "says"), FAILURES, ids=[" ".join(words) for words, _ in FAILURES])
def test_a_failure_is_one_line_and_status_1(run, arguments, says):
    status, out, err = run(*arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"stillroom: {says}")


@pytest.mark.parametrize(
    "url", ["sqlite:////no/such/folder/l.sqlite", "nonsense", "postgresql+pg8000://user:hunter2@db/ledger"]
)
def test_a_ledger_that_cannot_be_reached_is_one_line_and_status_1(run, monkeypatch, url):
    monkeypatch.setenv("STILLROOM_STORE__URL", url)
    status, out, err = run("keys", "list")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("stillroom: the ledger cannot be reached: ")
    assert "hunter2" not in err


def test_a_home_that_is_a_file_is_one_line_and_status_1(run, home, monkeypatch):
    (home / "file").touch()
    monkeypatch.setenv("STILLROOM_HOME", str(home / "file"))
    status, _, err = run("keys", "list")
    assert (status, err.count("\n")) == (1, 1)


def test_releases_are_promoted_and_rolled_back(run, ledger):
    for name, parent in (("r1", None), ("r2", "r1")):
        releases.add(ledger, Release(name, "candidate", 1, None, parent, None, "/r", "0", {}))
        assert run("distill", "promote", name) == (0, f"release {name} is live\n", "")
    assert run("distill", "rollback") == (0, "took back r2; r1 is live again\n", "")
    assert run("distill", "rollback")[0] == 1
    assert releases.live(ledger).id == "r1"


@pytest.mark.parametrize("arguments", [["--help"], ["keys", "--help"], ["keys", "create", "-h"], ["--version"]])
def test_help_and_version_go_to_standard_output_with_status_0(run, arguments):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert "stillroom" in out.lower()


def test_no_command_shows_the_help_with_status_2(run):
    for arguments in ([], ["keys"]):
        status, out, err = run(*arguments)
        assert status == 2
        assert "Usage" in out + err


def test_the_installed_command_ends_with_these_statuses_too(home):
    command = [sys.executable, "-m", "stillroom.cli", "distill", "show", "job_x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "stillroom: there is no job 'job_x'; `stillroom distill list` shows them\n"


@pytest.mark.parametrize("command", ["serve", "up"])
@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "off loopback students ask for a key, and STUDENT_API_KEY (student.api_key_env) is not set"),
        ("students-own", "student.address = '198.51.100.77': this machine cannot listen there ("),
    ],
)
def test_students_that_others_reach_need_a_key_and_an_address_of_the_machine(run, monkeypatch, command, key, why):
    monkeypatch.setenv("STILLROOM_STUDENT__ADDRESS", "198.51.100.77")
    monkeypatch.setenv("STUDENT_API_KEY", key)
    status, out, err = run(command)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert why in err
    assert "students-own" not in err
