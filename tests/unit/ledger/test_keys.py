"""API keys: shown once, kept as a digest with a policy, rotated with an overlap, revoked at once."""

import contextlib
import io
import re
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog

from ledger import audit, keys, schema
from ledger.keys import KeyNameError, KeyPolicy, PolicyError, ScopeError, digest
from ledger.policies import expiry, policy_of
from ledger.store import now_ms


def test_a_created_key_is_listed_and_found_by_its_digest(store):
    key, secret = keys.create(store, "shop", ["inference", "read", "inference"], "test")
    assert key.scopes == ("inference", "read")
    assert keys.list_keys(store) == [key]
    assert keys.load_active(store) == {digest(secret): key}
    assert re.fullmatch(r"sk-stillroom-[\w-]{43}", secret)
    assert key.last4 == secret[-4:]


def test_two_keys_of_one_name_have_their_own_ids_and_secrets(store):
    (first, one), (second, other) = (keys.create(store, "shop", ["read"], "test") for _ in range(2))
    assert first.id != second.id
    assert one != other


@pytest.mark.parametrize(
    ("scopes", "named"),
    [
        pytest.param(["root"], "root", id="unknown"),
        pytest.param(["read", "write", "own"], "write, own", id="some unknown"),
        pytest.param([], "none given", id="none"),
    ],
)
def test_a_scope_that_does_not_exist_is_refused_with_the_ones_that_do(store, scopes, named):
    with pytest.raises(ScopeError, match=named) as refusal:
        keys.create(store, "shop", scopes, "test")
    assert "inference, read, admin" in str(refusal.value)
    assert keys.list_keys(store) == []


def test_a_revoked_key_is_listed_and_no_longer_active(store):
    key, _ = keys.create(store, "shop", ["read"], "test")
    keys.revoke(store, "shop", "test")
    (found,) = keys.list_keys(store)
    assert found.revoked_at is not None
    assert found.revoked_at >= key.created_at
    assert keys.load_active(store) == {}


def test_a_key_is_revoked_by_its_id_where_names_repeat(store):
    first, _ = keys.create(store, "shop", ["read"], "test")
    second, _ = keys.create(store, "shop", ["read"], "test")
    with pytest.raises(KeyNameError, match="2 active keys named 'shop'"):
        keys.revoke(store, "shop", "test")
    keys.revoke(store, second.id, "test")
    assert list(keys.load_active(store).values()) == [first]
    keys.revoke(store, "shop", "test")
    assert keys.load_active(store) == {}


@pytest.mark.parametrize("name", ["nobody", "", "' OR 1=1 --", "%"])
def test_a_key_that_is_not_there_cannot_be_revoked(store, name):
    keys.create(store, "shop", ["read"], "test")
    with pytest.raises(KeyNameError, match="no active key"):
        keys.revoke(store, name, "test")
    assert len(keys.load_active(store)) == 1


def test_a_key_that_was_revoked_cannot_be_revoked_again(store):
    key, _ = keys.create(store, "shop", ["read"], "test")
    keys.revoke(store, key.id, "test")
    with pytest.raises(KeyNameError):
        keys.revoke(store, key.id, "test")


def test_an_expiry_is_kept_with_the_key_for_those_who_check_it(store):
    soon = now_ms() + 1
    _, secret = keys.create(store, "short", ["read"], "test", expires_at=soon)
    time.sleep(0.005)
    assert keys.load_active(store)[digest(secret)].expires_at == soon < now_ms()


@pytest.mark.parametrize("secret", ["", "sk-stillroom-x", "\ud800", "\0", "é" * 10_000, "' OR digest IS NOT NULL --"])
def test_a_digest_is_taken_of_any_text_and_finds_no_key(store, secret):
    keys.create(store, "shop", ["read"], "test")
    assert digest(secret) not in keys.load_active(store)


def test_a_secret_is_nowhere_in_the_database_its_journal_or_the_log(sqlite_only):
    """The files of the other database are a server's own; what goes there is the same."""
    store = sqlite_only
    folder = Path(store.engine.url.database).parent
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), structlog.testing.capture_logs() as logs:
        secrets = [keys.create(store, f"key {i}", ["admin"], "test")[1] for i in range(20)]
        keys.revoke(store, "key 3", "test")
        keys.list_keys(store)
    written = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"key 3" in written
    shown = f"{out.getvalue()}{err.getvalue()}{logs}{keys.list_keys(store)}{audit.entries(store)}"
    for secret in secrets:
        assert secret.encode() not in written
        assert secret.removeprefix("sk-stillroom-").encode() not in written
        assert secret not in shown
        assert digest(secret).encode() in written


def test_who_made_and_revoked_a_key_is_in_the_audit(store):
    key, _ = keys.create(store, "shop", ["read"], "ann")
    keys.revoke(store, "shop", "ben")
    newest, oldest = audit.entries(store)
    assert (oldest["actor"], oldest["action"], oldest["subject"]) == ("ann", "key.create", key.id)
    made = {"name": "shop", "scopes": ["read"]}
    assert oldest["detail"] == {"name": "shop", "before": None, "after": made}
    assert (newest["actor"], newest["action"], newest["subject"]) == ("ben", "key.revoke", key.id)
    assert audit.entries(store, limit=1) == [newest]


def test_a_policy_is_kept_with_its_key(store):
    policy = KeyPolicy(
        owner="ann", tags=("a", "b"), models=("auto", "gpt-4o"), routes=("student",), default_route="student",
        requests_per_minute=0, tokens_per_minute=7, max_concurrent=2, budget_day=0.5, budget_month=10.0,
        budget_kind="soft", log_content=False,
    )  # fmt: skip
    key, secret = keys.create(store, "shop", ["inference"], "test", policy=policy)
    assert key.policy == policy
    assert keys.get(store, "shop") == keys.list_keys(store)[0] == keys.load_active(store)[digest(secret)] == key
    assert keys.get(store, key.id).policy.has_budget


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"tokens_per_minute": 1.5}, "tokens_per_minute"),
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"budget_day": -0.01}, "budget_day"),
        ({"budget_month": float("nan")}, "budget_month"),
        ({"budget_month": float("inf")}, "budget_month"),
        ({"budget_day": 10**30}, "budget_day"),
        ({"budget_kind": "firm"}, "budget_kind"),
        ({"routes": ["cloud"]}, "routes"),
        ({"routes": []}, "routes"),
        ({"models": []}, "models"),
        ({"models": [""]}, "models"),
        ({"default_route": "cloud"}, "default_route"),
        ({"default_route": "teacher", "routes": ["student"]}, "default_route"),
        ({"tags": ["a,b"]}, "tags"),
        ({"tags": ["a"] * 21}, "tags"),
        ({"owner": ""}, "owner"),
        ({"owner": "a\0"}, "owner"),
        ({"log_content": "no"}, "log_content"),
        ({"budget": 5}, "budget"),
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused_and_the_field_named(store, values, field):
    with pytest.raises(PolicyError) as refusal:
        policy_of(values)
    assert refusal.value.field == field
    assert str(refusal.value).startswith(f"{field}: ")
    key, _ = keys.create(store, "shop", ["read"], "test")
    with pytest.raises(PolicyError):
        keys.update_policy(store, key.id, values, "test")
    assert keys.get(store, key.id) == key


def test_a_policy_built_by_a_program_is_checked_too(store):
    with pytest.raises(PolicyError, match="max_concurrent"):
        keys.create(store, "shop", ["read"], "test", policy=KeyPolicy(max_concurrent=-3))
    with pytest.raises(PolicyError, match="name"):
        keys.create(store, "", ["read"], "test")
    assert keys.list_keys(store) == []


def test_an_update_changes_what_it_names_and_none_sets_back(store):
    key, _ = keys.create(store, "shop", ["read"], "test", policy=KeyPolicy(owner="ann", max_concurrent=3))
    changed = keys.update_policy(store, "shop", {"max_concurrent": None, "budget_day": 2}, "ben")
    assert changed.policy == keys.get(store, key.id).policy == KeyPolicy(owner="ann", budget_day=2.0)
    entry = audit.entries(store)[0]
    assert (entry["actor"], entry["action"], entry["subject"]) == ("ben", "key.update", key.id)
    assert entry["detail"] == {
        "name": "shop",
        "before": {"owner": "ann", "max_concurrent": 3},
        "after": {"owner": "ann", "budget_day": 2.0},
    }


def test_a_policy_that_cannot_be_read_allows_nothing(store):
    key, secret = keys.create(store, "shop", ["inference"], "test")
    other, _ = keys.create(store, "other", ["inference"], "test")
    with store.write() as connection:
        newer = sa.update(schema.keys).where(schema.keys.c.id == key.id).values(policy={"of_a_newer_version": 1})
        connection.execute(newer)
    active = keys.load_active(store)
    assert active[digest(secret)].policy == KeyPolicy(models=(), routes=())
    assert other in active.values()


def test_after_a_rotation_both_secrets_work_until_the_overlap_ends(store):
    key, old = keys.create(store, "shop", ["read"], "test")
    before = now_ms()
    rotated, new = keys.rotate(store, "shop", 60, "ben")
    assert new != old
    assert rotated.id == key.id
    assert rotated.last4 == new[-4:]
    active = keys.load_active(store)
    assert active.keys() == {digest(old), digest(new)}
    assert active[digest(new)].expires_at is None
    assert before + 60_000 <= active[digest(old)].expires_at <= now_ms() + 60_000
    assert active[digest(old)].id == key.id
    entry = audit.entries(store)[0]
    assert (entry["actor"], entry["action"], entry["subject"]) == ("ben", "key.rotate", key.id)
    assert new not in str(audit.entries(store))


def test_an_overlap_does_not_outlive_the_key(store):
    soon = now_ms() + 5_000
    _, old = keys.create(store, "shop", ["read"], "test", soon)
    keys.rotate(store, "shop", 60, "test")
    assert keys.load_active(store)[digest(old)].expires_at == soon


def test_a_rotation_without_overlap_and_a_second_one_end_the_old_secret(store):
    _, first = keys.create(store, "shop", ["read"], "test")
    _, second = keys.rotate(store, "shop", 0, "test")
    assert keys.load_active(store).keys() == {digest(second)}
    _, third = keys.rotate(store, "shop", 60, "test")
    _, fourth = keys.rotate(store, "shop", 60, "test")
    assert keys.load_active(store).keys() == {digest(third), digest(fourth)}
    assert digest(first) not in keys.load_active(store)


@pytest.mark.parametrize("overlap", [-1, float("nan"), 1e9])
def test_an_overlap_has_bounds(store, overlap):
    _, secret = keys.create(store, "shop", ["read"], "test")
    with pytest.raises(PolicyError, match="overlap_seconds"):
        keys.rotate(store, "shop", overlap, "test")
    assert keys.load_active(store).keys() == {digest(secret)}


def test_a_revocation_ends_both_secrets(store):
    keys.create(store, "shop", ["read"], "test")
    keys.rotate(store, "shop", 60, "test")
    keys.revoke(store, "shop", "test")
    assert keys.load_active(store) == {}
    for change in (
        lambda: keys.rotate(store, "shop", 1, "test"),
        lambda: keys.update_policy(store, "shop", {}, "test"),
    ):
        with pytest.raises(KeyNameError, match="no active key"):
            change()


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2100-01-01T00:00:00Z", 4_102_444_800_000),
        ("2100-01-01T01:00:00+01:00", 4_102_444_800_000),
        ("2100-01-01", 4_102_444_800_000),
        ("4102444800", 4_102_444_800_000),
        (4102444800, 4_102_444_800_000),
        (4102444800.5, 4_102_444_800_500),
    ],
)
def test_an_expiry_is_a_time_or_seconds(text, ms):
    assert expiry(text) == ms


@pytest.mark.parametrize(
    "text", ["", "soon", "2000-01-01T00:00:00Z", 0, -1, float("nan"), float("inf"), 1e300, "1e999"]
)
def test_an_expiry_that_is_none_or_past_is_refused(text):
    with pytest.raises(PolicyError, match="expires_at"):
        expiry(text)
