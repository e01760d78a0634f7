"""API keys: shown once, kept as a digest, revoked at once."""

import contextlib
import io
import re
import time
from pathlib import Path

import pytest
import structlog

from ledger import audit, keys
from ledger.keys import KeyNameError, ScopeError, digest
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


def test_a_secret_is_nowhere_in_the_database_its_journal_or_the_log(store):
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
    assert oldest["detail"] == {"name": "shop", "scopes": ["read"]}
    assert (newest["actor"], newest["action"], newest["subject"]) == ("ben", "key.revoke", key.id)
    assert audit.entries(store, limit=1) == [newest]
