"""Receivers of webhooks: which settings are taken, what is signed and how, and which events go to whom."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings import WebhookSettings
from gateway.webhook_endpoints import Endpoint, WebhookError, matches, payload, problem_with, signatures
from ledger.outbox import Message

SECRET = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(24))).decode()


def settings(**fields) -> WebhookSettings:
    return WebhookSettings(**{"name": "pager", "url": "https://pager.example/x", "secret_env": "S", **fields})


def test_a_signature_is_the_one_that_the_standards_own_libraries_make():
    # their common test vector (github.com/standard-webhooks/standard-webhooks, libraries, the test of "sign")
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signatures([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.binary(min_size=24, max_size=64), st.integers(0, 2**40), st.binary(max_size=200))
def test_every_secret_signs_id_time_and_body(secret, timestamp, body):
    both = signatures([secret, b"k" * 24], "msg_1", timestamp, body).split(" ")
    for made, key in zip(both, (secret, b"k" * 24), strict=True):
        digest = hmac.new(key, b"msg_1." + str(timestamp).encode() + b"." + body, hashlib.sha256).digest()
        assert made == "v1," + base64.b64encode(digest).decode()


def test_the_body_has_the_type_the_time_and_the_data():
    message = Message("msg_1", 1_700_000_000_123, "job.failed", "job_1", {"job": "job_1", "error": "no disk"})
    assert payload(message) == (
        b'{"type":"job.failed","timestamp":"2023-11-14T22:13:20.123Z","data":{"job":"job_1","error":"no disk"}}'
    )


@pytest.mark.parametrize(
    ("pattern", "kind", "is_so"),
    [
        ("*", "job.failed", True),
        ("job.*", "job.failed", True),
        ("job.failed", "job.failed", True),
        ("job.failed", "job.live", False),
        ("job.*", "jobs.failed", False),
        ("release.*", "job.failed", False),
    ],
)
def test_a_pattern_names_an_event_a_group_or_all(pattern, kind, is_so):
    assert matches(pattern, kind) == is_so


def test_two_secrets_are_read_and_neither_is_shown():
    endpoint = Endpoint.of(settings(), {"S": f"whsec_{SECRET} whsec_{OTHER}"})
    assert [len(secret) for secret in endpoint.secrets] == [32, 24]
    assert "pager.example" not in repr(endpoint)
    assert "x01" not in repr(endpoint)


@pytest.mark.parametrize(
    "held",
    ["", "whsec_", f"sk_{SECRET}", SECRET, "whsec_!!!", "whsec_c2hvcnQ=", "whsec_" + "QUFB" * 22],
    ids=["unset", "empty", "another prefix", "no prefix", "no base64", "too short", "too long"],
)
def test_a_secret_that_cannot_sign_is_refused_and_not_shown(held):
    with pytest.raises(WebhookError, match=r"'pager'.*S ") as raised:
        Endpoint.of(settings(), {"S": held})
    assert not held.strip() or held.removeprefix("whsec_")[:5] not in str(raised.value) or held == "whsec_"


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "Pager"},
        {"name": ""},
        {"url": "http://pager.example/x"},
        {"url": "ftp://pager.example/x", "allow_http": True},
        {"url": "https://"},
        {"url": "https://user:word@pager.example/x"},
        {"url": "https://pager.example:port/x"},
        {"events": ("job",)},
        {"events": ("job.faild",)},
        {"events": ("jobs.*",)},
    ],
)
def test_settings_that_cannot_be_meant_are_refused_without_the_url(fields):
    problem = problem_with([settings(**fields)])
    assert problem
    assert problem.startswith("webhooks[0].")
    assert "pager.example" not in problem


def test_what_can_be_meant_is_taken():
    good = ("*", "job.*", "job.failed", "canary.rolled_back", "budget.exhausted", "alert.disk", "alert.*")
    other = settings(name="log-2", url="http://10.0.0.1/", allow_http=True)
    assert problem_with([settings(events=good), other]) is None
    assert "webhooks[1].name" in (problem_with([settings(), settings()]) or "")
