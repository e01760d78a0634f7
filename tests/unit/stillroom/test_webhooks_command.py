"""``stillroom webhooks``: receivers and deliveries are listed, a test is sent, what failed is sent again."""

import base64
import json

import pytest

from ledger import audit, jobs, outbox
from ledger.store import now_ms
from stillroom.settings import SettingsError, load_settings
from tests.http_receiver import Receiver

SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"


@pytest.fixture
def receiver():
    opened = Receiver()
    yield opened
    opened.close()


@pytest.fixture
def pager(home, receiver, monkeypatch):
    """A settings file that names it."""
    monkeypatch.setenv("PAGER_SECRET", SECRET)
    (home.parent / "stillroom.toml").write_text(
        f'[[webhooks]]\nname = "pager"\nurl = "{receiver.url}/token"\nsecret_env = "PAGER_SECRET"\n'
        'events = ["job.*", "budget.exhausted"]\nallow_http = true\n'
    )
    return receiver


def failed(ledger, count: int) -> list[int]:
    for _ in range(count):
        jobs.create(ledger, "manual", "ann", {})
    outbox.take_up(ledger, lambda _kind: ["pager"], now_ms())
    ids = [each.id for each in outbox.due(ledger, "pager", now_ms(), 10)]
    for each in ids:
        outbox.mark(ledger, each, 500, "answered with status 500")
    return ids


def test_receivers_are_listed_with_what_became_of_their_deliveries(run, ledger, pager):
    failed(ledger, 2)
    status, out, _ = run("webhooks", "list", "--json")
    assert status == 0
    assert json.loads(out) == [
        {"webhook": "pager", "events": ["job.*", "budget.exhausted"], "pending": 0, "delivered": 0, "failed": 2}
    ]
    assert "token" not in run("webhooks", "list")[1]


def test_without_receivers_or_deliveries_that_is_said(run):
    assert "[[webhooks]] in the settings" in run("webhooks", "list")[1]
    assert "no deliveries yet" in run("webhooks", "deliveries")[1]


def test_deliveries_are_listed_newest_first_by_receiver_and_state(run, ledger, pager):
    first, second = failed(ledger, 2)
    rows = json.loads(run("webhooks", "deliveries", "--state", "failed", "--webhook", "pager", "--json")[1])
    assert [row["id"] for row in rows] == [second, first]
    assert rows[0]["event"] == "job.queued"
    assert rows[0]["error"] == "answered with status 500"
    assert json.loads(run("webhooks", "deliveries", "--webhook", "other", "--json")[1]) == []
    assert run("webhooks", "deliveries", "--state", "sent")[0] == 2


def test_a_test_is_signed_and_sent_at_once(run, pager):
    status, out, _ = run("webhooks", "test", "pager")
    assert status == 0
    assert "taken with status 200" in out
    (posted,) = pager.posted
    assert json.loads(posted.body)["type"] == "webhook.test"
    assert posted.headers["webhook-id"] in out
    assert posted.headers["webhook-signature"].startswith("v1,")


def test_a_test_that_is_not_taken_fails_and_shows_no_url(run, pager, monkeypatch):
    pager.status = 401
    status, _, err = run("webhooks", "test", "pager")
    assert status == 1
    assert "did not take it: answered with status 401" in err
    pager.close()
    status, _, err = run("webhooks", "test", "pager")
    assert (status, "Connection refused" in err, "token" in err) == (1, True, False)
    monkeypatch.setenv("PAGER_SECRET", "whsec_short")
    status, _, err = run("webhooks", "test", "pager")
    assert (status, "PAGER_SECRET" in err, "whsec_short" in err) == (1, True, False)
    status, _, err = run("webhooks", "test", "other")
    assert (status, "there are: pager" in err) == (1, True)


def test_what_failed_is_sent_again_one_by_one_or_all(run, ledger, pager):
    first, _ = failed(ledger, 2)
    assert run("webhooks", "retry", str(first))[1].startswith("1 to be sent again")
    assert outbox.counts(ledger) == {("pager", "pending"): 1, ("pager", "failed"): 1}
    assert run("webhooks", "retry", "--failed", "--webhook", "pager")[1].startswith("1 to be sent again")
    assert outbox.counts(ledger) == {("pager", "pending"): 2}
    assert audit.entries(ledger)[0]["actor"].startswith("cli")
    for arguments in ((), ("1", "--failed"), ("1", "--webhook", "pager")):
        assert run("webhooks", "retry", *arguments)[0] == 2
    status, _, err = run("webhooks", "retry", "999")
    assert (status, "no delivery 999" in err) == (1, True)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WEBHOOKS": '[{name = "a", url = "http://h.example/t", secret_env = "S"}]'}, r"webhooks\[0\]\.url"),
        ({"WEBHOOKS": '[{name = "a", url = "https://h/t", secret_env = "S", events = ["jobs"]}]'}, "events.*'jobs'"),
        ({"GATEWAY__TRACING__ENDPOINT": "collector:4318"}, "gateway.tracing.endpoint"),
        ({"GATEWAY__TRACING__SAMPLE_RATIO": "1.5"}, "gateway.tracing.sample_ratio"),
        ({"GATEWAY__TRACING__SAMPLE_RATIO": "nan"}, "gateway.tracing.sample_ratio"),
    ],
)
def test_settings_of_who_is_told_are_checked(home, variables, named):
    with pytest.raises(SettingsError, match=named):
        load_settings(None, {f"STILLROOM_{name}": value for name, value in variables.items()})
