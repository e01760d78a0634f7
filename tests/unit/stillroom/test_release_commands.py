"""``distill releases|pin|unpin|prune``."""

import dataclasses
import json

import pytest

from ledger import releases
from ledger.artifacts import seal
from ledger.releases import Release


@pytest.fixture
def three(ledger, home):
    """``a`` and ``b`` retired by ``c``, each with files."""
    for i, (name, parent) in enumerate([("a", None), ("b", "a"), ("c", "b")]):
        folder = home / "releases" / name
        (folder / "student").mkdir(parents=True)
        (folder / "student" / "config.json").write_text("{}")
        facts = {"dataset": {"content_hash": f"{i}" * 64}, "code": {"version": "0.1.0", "commit": "c0ffee" * 6}}
        digest = seal(folder, facts)
        plain = Release(name, "candidate", i, None, parent, None, str(folder), digest, {})
        releases.add(ledger, dataclasses.replace(plain))
        releases.promote(ledger, name, "ann")
    return ledger


def test_releases_are_listed_with_what_they_were_made_from(run, three):
    status, out, _ = run("distill", "releases", "--json")
    rows = json.loads(out)
    assert status == 0
    assert [(row["release"], row["state"], row["parent"]) for row in rows] == [
        ("a", "retired", None), ("b", "retired", "a"), ("c", "live", "b"),
    ]  # fmt: skip
    assert (rows[1]["dataset"], rows[1]["code"]) == ("1" * 64, "c0ffee" * 6)
    assert rows[1]["content_hash"] == releases.get(three, "b").content_hash
    assert rows[1]["manifest"]["parts"].keys() == {"student"}
    table = run("distill", "releases")[1]
    assert "c0ffeec0" in table
    assert "c0ffee" * 2 not in table


def test_what_would_be_deleted_is_said_first_and_then_deleted(run, three, home):
    assert run("distill", "prune", "--keep", "0", "--dry-run") == (0, f"would delete a: {home}/releases/a\n", "")
    assert (home / "releases" / "a").is_dir()
    assert run("distill", "prune", "--keep", "0") == (0, f"deleted a: {home}/releases/a\n", "")
    assert not (home / "releases" / "a").exists()
    assert (home / "releases" / "b").is_dir(), "a rollback would bring it back"
    assert run("distill", "prune", "--keep", "0") == (0, "nothing to delete\n", "")
    assert json.loads(run("distill", "releases", "--json")[1])[0]["files"] == "pruned"
    status, _, err = run("distill", "promote", "a")
    assert status == 1
    assert "pruned" in err


def test_a_pinned_release_is_not_deleted(run, three, home):
    assert run("distill", "pin", "a")[0] == 0
    assert run("distill", "prune", "--keep", "0")[1] == "nothing to delete\n"
    assert run("distill", "unpin", "a")[0] == 0
    assert run("distill", "prune", "--keep", "0")[1].startswith("deleted a")
    status, _, err = run("distill", "pin", "nobody")
    assert (status, err.count("\n")) == (1, 1)


def test_the_settings_say_how_many_are_kept(run, three, monkeypatch):
    assert run("distill", "prune")[1] == "nothing to delete\n"
    monkeypatch.setenv("STILLROOM_DISTILL__KEEP_RELEASES", "0")
    assert run("distill", "prune", "--dry-run")[1].startswith("would delete a")
