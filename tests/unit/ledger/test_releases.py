"""Releases: one is live at most, a rejected one never is, and what happened is in the audit."""

import dataclasses

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import audit, releases, schema
from ledger.releases import ReleaseError
from tests.unit.ledger.rows import a_store, release


def states(store):
    return {found.id: found.state for found in releases.list_releases(store)}


@pytest.fixture
def three(store):
    """``a`` is the parent of ``b``, ``b`` that of ``c``; all are candidates."""
    for i, (name, parent) in enumerate([("a", None), ("b", "a"), ("c", "b")]):
        releases.add(store, release(name, parent, created_at=i))
    return store


def test_a_release_comes_back_as_it_was_added(store):
    added = dataclasses.replace(release("a"), summary={"student_agreement": 0.9}, job_id="job_1")
    releases.add(store, added)
    assert releases.get(store, "a") == added
    assert releases.list_releases(store) == [added]
    assert releases.live(store) is None
    with pytest.raises(sa.exc.IntegrityError):
        releases.add(store, added)


def test_a_promotion_makes_one_live_and_retires_the_one_before(three):
    assert releases.promote(three, "a", "ann") is None
    assert releases.live(three).id == "a"
    assert releases.live(three).promoted_at is not None
    before = releases.promote(three, "b", "ann")
    assert before.id == "a"
    assert states(three) == {"a": "retired", "b": "live", "c": "candidate"}
    assert [found.id for found in releases.served(three)] == ["b", "c"]


def test_the_one_before_is_who_was_live_last_and_none_that_was_taken_back(three):
    assert releases.live_before(three) is None
    releases.promote(three, "a", "ann")
    assert releases.live_before(three) is None
    releases.promote(three, "b", "ann")
    assert releases.live_before(three).id == "a"
    releases.promote(three, "a", "ann")
    assert releases.live_before(three).id == "b"
    releases.promote(three, "b", "ann")
    releases.rollback(three, "ann")
    assert releases.live(three).id == "a"
    assert releases.live_before(three) is None
    releases.promote(three, "c", "ann")
    assert releases.live_before(three).id == "a"


def test_promoting_the_live_one_changes_nothing(three):
    releases.promote(three, "a", "ann")
    first = releases.live(three)
    assert releases.promote(three, "a", "ann") == first
    assert releases.live(three) == first
    assert len(audit.entries(three)) == 1


def test_a_rollback_makes_the_parent_live_again(three):
    releases.promote(three, "a", "ann")
    releases.promote(three, "b", "ann")
    taken_back, live = releases.rollback(three, "ben")
    assert (taken_back.id, live.id, live.state) == ("b", "a", "live")
    assert states(three) == {"a": "live", "b": "rolled_back", "c": "candidate"}


def test_a_rollback_passes_over_a_parent_that_was_itself_taken_back(three):
    for name in ("a", "b"):
        releases.promote(three, name, "ann")
    releases.rollback(three, "ben")
    releases.promote(three, "c", "ann")
    _, live = releases.rollback(three, "ben")
    assert live.id == "a"
    assert states(three) == {"a": "live", "b": "rolled_back", "c": "rolled_back"}


def test_there_is_nothing_to_roll_back_to_before_the_first_release(three):
    with pytest.raises(ReleaseError, match="no live release"):
        releases.rollback(three, "ben")
    releases.promote(three, "a", "ann")
    with pytest.raises(ReleaseError, match=r"a is the first one; set router\.enabled = false"):
        releases.rollback(three, "ben")
    assert releases.live(three).id == "a"


def test_a_rejected_release_cannot_go_live(three):
    releases.reject(three, "b", "gate", "worse than the champion")
    with pytest.raises(ReleaseError, match="rejected"):
        releases.promote(three, "b", "ann")
    assert states(three)["b"] == "rejected"
    assert [found.id for found in releases.served(three)] == ["a", "c"]


def test_only_a_candidate_is_rejected_and_nothing_else_is_audited_as_such(three):
    releases.promote(three, "a", "ann")
    for name in ("a", "nobody"):
        releases.reject(three, name, "gate", "too late")
    assert states(three)["a"] == "live"
    assert [entry["action"] for entry in audit.entries(three)] == ["release.promote"]


def test_an_unknown_release_is_named_in_the_error(three):
    for refused in (lambda: releases.get(three, "x"), lambda: releases.promote(three, "x", "ann")):
        with pytest.raises(ReleaseError, match="there is no release 'x'"):
            refused()


def test_a_summary_is_set_while_the_release_is_a_candidate_and_not_later(three):
    releases.set_summary(three, "a", {"held_out": 10}, "1" * 64)
    releases.promote(three, "a", "ann")
    releases.set_summary(three, "a", {"held_out": 99}, "2" * 64)
    found = releases.get(three, "a")
    assert (found.summary, found.content_hash) == ({"held_out": 10}, "1" * 64)


def test_the_database_itself_refuses_a_second_live_release(three):
    releases.promote(three, "a", "ann")
    with pytest.raises(sa.exc.IntegrityError), three.write() as connection:
        connection.execute(sa.update(schema.releases).where(schema.releases.c.id == "b").values(state="live"))
    assert states(three) == {"a": "live", "b": "candidate", "c": "candidate"}


OPERATION = st.tuples(st.sampled_from(["promote", "reject", "rollback"]), st.sampled_from("abcdef"))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.none() | st.sampled_from("abcdef"), min_size=5, max_size=5), st.lists(OPERATION, max_size=20))
def test_whatever_is_done_one_is_live_at_most_and_a_rejected_one_never(parents, operations):
    with a_store() as store:
        for name, parent in zip("abcde", parents, strict=True):
            releases.add(store, release(name, parent))
        rejected: set[str] = set()
        for action, name in operations:
            try:
                if action == "promote":
                    releases.promote(store, name, "test")
                elif action == "rollback":
                    taken_back, live = releases.rollback(store, "test")
                    assert taken_back.id != live.id
                else:
                    releases.reject(store, name, "test", "")
            except ReleaseError:
                pass
            now = states(store)
            rejected |= {name for name, state in now.items() if state == "rejected"}
            assert list(now.values()).count("live") <= 1
            assert all(now[name] == "rejected" for name in rejected)
        if any(entry["action"] == "release.promote" for entry in audit.entries(store)):
            assert releases.live(store) is not None
