"""Pins, and which releases' files may go: never what is served, pinned, or what a rollback would bring back."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import audit, releases, retention
from ledger.releases import ReleaseError
from tests.unit.ledger.rows import a_store, release

STATES = ("candidate", "canary", "retired", "rejected", "rolled_back")


@settings(max_examples=60)
@given(
    made=st.lists(st.tuples(st.sampled_from(STATES), st.booleans()), max_size=8),
    live=st.integers(0, 7),
    keep=st.integers(0, 8),
)
def test_only_past_releases_go_the_oldest_first_and_the_kept_ones_are_the_newest(made, live, keep):
    with a_store() as store:
        for i, (past_state, pinned) in enumerate(made):
            state = "live" if i == live else past_state
            parent = f"r{i - 1}" if i else None
            releases.add(store, dataclasses.replace(release(f"r{i}", parent, i), state=state, pinned=pinned))
        gone = retention.expendable(store, keep)
        past = [
            each
            for each in releases.list_releases(store)
            if each.state in ("retired", "rejected", "rolled_back") and not each.pinned
        ]
        target = releases.rollback_target(store)
        allowed = [each for each in past[: max(0, len(past) - keep)] if target is None or each.id != target.id]
        assert gone == allowed
        if target is not None:
            assert target.id not in {each.id for each in gone}


@pytest.fixture
def three(store):
    """``a`` and ``b`` retired by ``c``, which is live."""
    for i, (name, parent) in enumerate([("a", None), ("b", "a"), ("c", "b")]):
        releases.add(store, release(name, parent, created_at=i))
        releases.promote(store, name, "ann")
    return store


def test_a_pinned_release_is_kept_until_it_is_unpinned(three):
    retention.pin(three, "a", True, "ann")
    assert retention.expendable(three, 0) == []
    assert not retention.mark_pruned(three, "a", "worker")
    retention.pin(three, "a", False, "ann")
    assert [each.id for each in retention.expendable(three, 0)] == ["a"]
    assert {"release.pin", "release.unpin"} <= {entry["action"] for entry in audit.entries(three)}
    with pytest.raises(ReleaseError, match="nobody"):
        retention.pin(three, "nobody", True, "ann")


def test_a_pruned_release_keeps_its_row_and_can_never_go_live_again(three):
    assert retention.mark_pruned(three, "a", "worker")
    assert releases.get(three, "a").summary["pruned_at"] > 0
    assert retention.expendable(three, 0) == []
    with pytest.raises(ReleaseError, match="pruned"):
        releases.promote(three, "a", "ann")
    releases.rollback(three, "ann")
    with pytest.raises(ReleaseError, match="first one"):
        releases.rollback(three, "ann")
    assert releases.live(three).id == "b"


@pytest.mark.parametrize("release_id", ["c", "nobody"])
def test_what_is_live_or_unknown_is_not_marked(three, release_id):
    assert not retention.mark_pruned(three, release_id, "worker")
    assert releases.live(three).id == "c"


def test_facts_are_added_to_a_summary_in_any_state(three):
    retention.amend_summary(three, "b", {"artifact": "file:///x/b"})
    assert releases.get(three, "b").summary == {"artifact": "file:///x/b"}
