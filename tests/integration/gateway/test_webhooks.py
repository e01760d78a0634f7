"""Webhooks over sockets: signed, again until they are taken, by one sender at a time, and not lost with a process."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from gateway.settings import WebhookSettings
from gateway.webhook_endpoints import Endpoint
from gateway.webhooks import Patience, WebhookSender
from ledger import audit, jobs, keys, outbox, releases
from ledger.policies import KeyPolicy
from ledger.requests import insert_records
from ledger.store import now_ms, open_store, sqlite_url
from tests.gateway_fixtures import RELEASE, World, go_live, running_world, wait_until
from tests.gateway_process import gateway_process
from tests.http_receiver import Posted, Receiver
from tests.scripted_upstream import WAIT_S
from tests.unit.ledger.rows import release, row

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
ENV = "WEBHOOK_SECRET_OF_THE_TESTS"
QUICK = Patience(first_s=0.02, factor=1.0, poll_s=0.02)


@pytest.fixture
def receiver():
    opened = Receiver()
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path):
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


def endpoint(receiver: Receiver, name="pager", events: tuple[str, ...] = ("*",), path="/hook") -> Endpoint:
    return Endpoint(name, receiver.url + path, (KEY,), events)


@contextlib.contextmanager
def sending(*senders: WebhookSender):
    """The senders, in a loop of their own; cancelled at the end, as a gateway does."""

    async def run() -> None:
        tasks.extend(asyncio.create_task(sender.run()) for sender in senders)
        started.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    tasks: list[asyncio.Task[None]] = []
    started, loop = threading.Event(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert started.wait(WAIT_S)
    try:
        yield
    finally:
        for task in tasks:
            loop.call_soon_threadsafe(task.cancel)
        thread.join(WAIT_S)
        assert not thread.is_alive()
        loop.close()


def states(store) -> Counter[str]:
    return Counter(each.state for each in outbox.deliveries(store, 1_000))


def sent_all(store, count: int) -> bool:
    return states(store) == {"delivered": count}


def verified(posted: Posted) -> dict:
    """The body, its signature computed here from the standard's text: base64(HMAC-SHA256(id.timestamp.body))."""
    signed = f"{posted.headers['webhook-id']}.{posted.headers['webhook-timestamp']}.".encode() + posted.body
    expected = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert expected in posted.headers["webhook-signature"].split(" ")
    assert abs(time.time() - int(posted.headers["webhook-timestamp"])) < 30
    assert posted.headers["content-type"] == "application/json"
    return json.loads(posted.body)


def test_what_happens_is_posted_signed_once_in_order_to_those_who_want_it(store, receiver: Receiver):
    wanted = (endpoint(receiver), endpoint(receiver, "jobs", ("job.failed", "release.*"), "/jobs"))
    with sending(WebhookSender(store, wanted, QUICK)):
        job = jobs.create(store, "manual", "ann", {})
        jobs.claim(store, "w")
        jobs.set_state(store, job.id, "w", "failed", error="no disk")
        releases.add(store, release("r1"))
        releases.promote(store, "r1", "ann")
        wait_until(lambda: sent_all(store, 5))
        time.sleep(0.2)  # nothing more comes
    by_path = {path: [verified(each) for each in receiver.posted if each.path == path] for path in ("/hook", "/jobs")}
    assert [each["type"] for each in by_path["/hook"]] == ["job.queued", "job.failed", "release.promoted"]
    assert [each["type"] for each in by_path["/jobs"]] == ["job.failed", "release.promoted"]
    assert by_path["/jobs"][0]["data"]["error"] == "no disk"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", by_path["/hook"][0]["timestamp"])
    ids = [each.headers["webhook-id"] for each in receiver.posted if each.path == "/hook"]
    assert len(set(ids)) == 3


def test_a_failing_receiver_is_asked_again_under_the_same_id_until_it_takes_it(store, receiver: Receiver):
    receiver.reset(first=[500, 503, 302, 404])
    with sending(WebhookSender(store, [endpoint(receiver)], QUICK)):
        jobs.create(store, "manual", "ann", {})
        wait_until(lambda: sent_all(store, 1))
    assert len(receiver.posted) == 5
    assert len({(each.headers["webhook-id"], each.body) for each in receiver.posted}) == 1
    for each in receiver.posted:
        verified(each)
    assert outbox.deliveries(store, 1)[0].attempts == 5


def test_a_redirect_is_not_followed(store, receiver: Receiver):
    elsewhere = Receiver()
    receiver.reset(first=[307])
    receiver.headers = {"location": f"{elsewhere.url}/metadata"}
    with contextlib.closing(elsewhere), sending(WebhookSender(store, [endpoint(receiver)], QUICK)):
        jobs.create(store, "manual", "ann", {})
        wait_until(lambda: sent_all(store, 1))
    assert elsewhere.posted == []


def test_no_answer_and_nobody_there_count_as_failures_and_hold_up_no_other(store, receiver: Receiver, monkeypatch):
    monkeypatch.setattr("gateway.webhook_endpoints.TIMEOUT_S", 0.3)
    with socket.socket() as silent, socket.socket() as closed:
        for each in (silent, closed):
            each.bind(("127.0.0.1", 0))
        silent.listen()
        ports = {"silent": silent.getsockname()[1], "absent": closed.getsockname()[1]}
        deaf = [Endpoint(name, f"http://127.0.0.1:{port}/", (KEY,), ("*",)) for name, port in ports.items()]
        with sending(WebhookSender(store, [*deaf, endpoint(receiver)], QUICK)):
            jobs.create(store, "manual", "ann", {})
            wait_until(lambda: states(store)["delivered"] == 1)
            wait_until(lambda: min(each.attempts for each in outbox.deliveries(store, 3)) >= 1)
    errors = {each.endpoint: each.last_error or "" for each in outbox.deliveries(store, 3)}
    assert "no answer within" in errors["silent"]
    assert "refused" in errors["absent"]
    assert errors["pager"] == ""


def test_what_fails_too_long_or_is_gone_is_given_up_and_can_be_sent_again(store, receiver: Receiver):
    receiver.reset(first=[410], status=500)
    patience = Patience(first_s=0.05, factor=1.0, poll_s=0.02, keep_trying_ms=200)
    with sending(WebhookSender(store, [endpoint(receiver)], patience)):
        jobs.create(store, "manual", "ann", {})
        wait_until(lambda: states(store) == {"failed": 1})
        assert len(receiver.posted) == 1, "410 is a word, and not a failure to be tried again"
        outbox.retry(store, "ann")
        wait_until(lambda: len(receiver.posted) >= 3 and states(store) == {"failed": 1})
        receiver.status = 204
        outbox.retry(store, "ann", outbox.deliveries(store, 1)[0].id)
        wait_until(lambda: sent_all(store, 1))
    assert len({each.headers["webhook-id"] for each in receiver.posted}) == 1


def test_a_receivers_wish_to_wait_is_kept(store, receiver: Receiver):
    receiver.reset(first=[503])
    receiver.headers = {"retry-after": "3600"}
    with sending(WebhookSender(store, [endpoint(receiver)], QUICK)):
        jobs.create(store, "manual", "ann", {})
        wait_until(lambda: len(receiver.posted) == 1 and outbox.deliveries(store, 1)[0].attempts == 1)
    assert (outbox.deliveries(store, 1)[0].due_at or 0) > now_ms() + 3_500_000


def test_of_two_senders_one_sends_and_the_other_takes_over(store, receiver: Receiver):
    first, second = (WebhookSender(store, [endpoint(receiver)], QUICK) for _ in range(2))
    with sending(first), sending(second):
        for _ in range(20):
            jobs.create(store, "manual", "ann", {})
        wait_until(lambda: sent_all(store, 20))
    assert Counter(each.headers["webhook-id"] for each in receiver.posted).most_common(1)[0][1] == 1
    assert len(receiver.posted) == 20
    # both are gone, and gave the lease back
    with sending(WebhookSender(store, [endpoint(receiver)], QUICK)):
        jobs.create(store, "manual", "ann", {})
        wait_until(lambda: sent_all(store, 21))


def test_a_spent_budget_is_said_once_at_each_mark_of_each_period(store, receiver: Receiver, monkeypatch):
    monkeypatch.setattr("gateway.webhooks.BUDGETS_S", 0.02)
    policy = KeyPolicy(budget_day=1.0, budget_month=100.0)
    key, _ = keys.create(store, "app", ["inference"], "test", policy=policy)
    calm, _ = keys.create(store, "calm", ["inference"], "test", policy=policy)

    def spend(name: str, amount: float, key_id: str) -> None:
        insert_records(store, [row(name, key_id=key_id, cost_nano=round(amount * 10**9), created_at=now_ms())])

    kinds: list[str] = []
    with sending(WebhookSender(store, [endpoint(receiver, events=("budget.*",))], QUICK)):
        spend("other", 0.5, calm.id)
        for name, amount, kind in (("a", 0.85, "budget.warning"), ("b", 0.2, "budget.exhausted")):
            spend(name, amount, key.id)
            kinds.append(kind)
            wait_until(lambda: sent_all(store, len(kinds)))
            assert [verified(each)["type"] for each in receiver.posted] == kinds
    with sending(WebhookSender(store, [endpoint(receiver, events=("budget.*",))], QUICK)):
        spend("c", 0.2, key.id)
        time.sleep(0.3)
    data = [verified(each)["data"] for each in receiver.posted]
    assert [(each["key"], each["name"], each["period"], each["spent"], each["budget"]) for each in data] == [
        (key.id, "app", "day", "0.85", "1"), (key.id, "app", "day", "1.05", "1"),
    ]  # fmt: skip


def webhook(receiver: Receiver, **fields) -> WebhookSettings:
    return WebhookSettings(
        **{"name": "pager", "url": f"{receiver.url}/secret-path", "secret_env": ENV, "allow_http": True, **fields}
    )


@pytest.fixture
def told(tmp_path, receiver: Receiver, router, monkeypatch):
    """A running gateway whose settings name the receiver."""
    monkeypatch.setenv(ENV, SECRET)
    with running_world(tmp_path, router, lambda config: replace(config, webhooks=(webhook(receiver),))) as world:
        yield world


def test_a_gateway_tells_of_a_promotion_and_lists_what_it_sent(told: World, receiver: Receiver):
    wait_until(lambda: [verified(each)["type"] for each in receiver.posted] == ["release.promoted"])
    wait_until(lambda: told.get("/admin/v1/webhooks/deliveries").json()["data"][0]["state"] == "delivered")
    (sent,) = told.get("/admin/v1/webhooks/deliveries?state=delivered&endpoint=pager", "read").json()["data"]
    assert (sent["subject"], sent["last_status"], sent["attempts"]) == (RELEASE, 200, 1)
    assert "secret-path" not in json.dumps(sent)
    again = told.client.post(
        f"{told.url}/admin/v1/webhooks/deliveries/{sent['id']}/retry", headers=told.headers("admin")
    )
    assert again.json() == {"id": sent["id"], "state": "pending"}
    wait_until(lambda: len(receiver.posted) == 2)
    assert receiver.posted[0].headers["webhook-id"] == receiver.posted[1].headers["webhook-id"] == sent["message_id"]
    assert audit.entries(told.store)[0]["subject"] == f"delivery:{sent['id']}"


def test_pages_of_deliveries_end_and_bad_questions_are_refused(told: World, receiver: Receiver):
    for _ in range(3):
        jobs.create(told.store, "manual", "ann", {})
    wait_until(lambda: len(receiver.posted) == 4)
    seen, after = [], ""
    while after is not None:
        page = told.get(f"/admin/v1/webhooks/deliveries?limit=2{after and f'&before={after}'}").json()
        seen += [each["id"] for each in page["data"]]
        after = page["next"]
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 4
    for query in ("limit=0", "limit=1001", "limit=x", "before=x", "state=sent"):
        assert told.get(f"/admin/v1/webhooks/deliveries?{query}").status_code == 400
    assert told.get("/admin/v1/webhooks/deliveries", "inference").status_code == 403
    for number in (999, 2**70):
        url = f"{told.url}/admin/v1/webhooks/deliveries/{number}/retry"
        assert told.client.post(url, headers=told.headers("admin")).status_code == 404
        assert told.client.post(url, headers=told.headers("read")).status_code == 403


def test_what_a_killed_gateway_sent_and_did_not_mark_is_sent_again_under_its_id(
    tmp_path, receiver: Receiver, router, monkeypatch
):
    settings = f"""
[teacher]
base_url = "{receiver.url}/v1"
[[webhooks]]
name = "pager"
url = "{receiver.url}/secret-path"
secret_env = "{ENV}"
allow_http = true
"""
    monkeypatch.setenv(ENV, SECRET)
    prelude = "import gateway.webhooks as w; w.LEASE_S = 2.0; w.ATTEMPT_S = 0.5"
    with gateway_process(tmp_path, settings, prelude) as gateway:
        killed = threading.Event()

        def kill(_posted: Posted) -> None:
            # the message is here, and the answer never gets there
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGKILL)
            killed.set()

        receiver.before = kill
        gateway.start()
        go_live(gateway.store, tmp_path / "releases" / RELEASE, router)
        assert killed.wait(WAIT_S)
        assert gateway.process is not None
        gateway.process.wait(WAIT_S)
        assert outbox.deliveries(gateway.store, 1)[0].state == "pending"
        receiver.before = None
        gateway.start()
        wait_until(lambda: sent_all(gateway.store, 1))
        gateway.end(signal.SIGTERM)
        assert len(receiver.posted) == 2
        assert len({each.headers["webhook-id"] for each in receiver.posted}) == 1
        for each in receiver.posted:
            assert verified(each)["type"] == "release.promoted"
        for secret in (SECRET, SECRET.removeprefix("whsec_"), "secret-path"):
            assert secret not in gateway.log()


def test_a_gateway_without_its_webhooks_secret_says_which_and_does_not_start(tmp_path, receiver: Receiver):
    named = f'name = "pager"\nurl = "{receiver.url}"\nsecret_env = "NOT_SET_ANYWHERE"\nallow_http = true\n'
    settings = f"[[webhooks]]\n{named}"
    with gateway_process(tmp_path, settings) as gateway, pytest.raises(AssertionError, match="NOT_SET_ANYWHERE"):
        gateway.start()
