"""Releases and their states. Exactly one release is live, held by a unique index."""

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ledger import outbox, schema
from ledger.audit import record as audit
from ledger.canary_close import close
from ledger.store import Store, now_ms

__all__ = (
    "Release",
    "ReleaseError",
    "add",
    "get",
    "list_releases",
    "live",
    "live_before",
    "promote",
    "reject",
    "rollback",
    "rollback_target",
    "served",
)

PRUNED: Final = "pruned_at"
"""Where a release's summary says when its files were deleted, in milliseconds since the epoch."""
SAID: Final = {"release.promote": "release.promoted", "release.rollback": "release.rolled_back"}
SERVED_STATES: Final = ("candidate", "canary", "live")


class ReleaseError(ValueError):
    """A release that does not exist, or a change that its state does not allow."""


@dataclass(frozen=True, slots=True)
class Release:
    """A student, its router and its thresholds. ``state`` is one of candidate, canary, live, retired,
    rejected, rolled_back; times are milliseconds since the epoch.
    """

    id: str
    state: str
    created_at: int
    promoted_at: int | None
    parent_id: str | None
    job_id: str | None
    folder: str
    content_hash: str
    summary: dict[str, Any]
    dataset_id: str | None = None
    pinned: bool = False
    """Kept, whatever the retention rules say."""


def add(store: Store, release: Release) -> None:
    """Record a new release. Raises ``sqlalchemy.exc.IntegrityError`` for a second one of the same id."""
    with store.write() as connection:
        connection.execute(sa.insert(schema.releases).values({f: getattr(release, f) for f in Release.__slots__}))


def get(store: Store, release_id: str) -> Release:
    """One release. Raises `ReleaseError`."""
    with store.read() as connection:
        row = connection.execute(sa.select(schema.releases).where(schema.releases.c.id == release_id)).first()
    if row is None:
        raise ReleaseError(f"there is no release {release_id!r}; `stillroom distill list` shows them")
    return Release(*row)


def list_releases(store: Store) -> list[Release]:
    """All releases, oldest first."""
    with store.read() as connection:
        rows = connection.execute(
            sa.select(schema.releases).order_by(schema.releases.c.created_at, schema.releases.c.id)
        )
        return [Release(*row) for row in rows]


def live(store: Store) -> Release | None:
    """The champion, or None before the first promotion."""
    with store.read() as connection:
        row = connection.execute(sa.select(schema.releases).where(schema.releases.c.state == "live")).first()
    return Release(*row) if row else None


def served(store: Store) -> list[Release]:
    """The releases that `serving` should have a ready student for."""
    with store.read() as connection:
        rows = connection.execute(
            sa.select(schema.releases)
            .where(schema.releases.c.state.in_(SERVED_STATES))
            .order_by(schema.releases.c.created_at)
        )
        return [Release(*row) for row in rows]


def set_summary(store: Store, release_id: str, summary: dict[str, Any], content_hash: str) -> None:
    """Replace a candidate's summary and content hash, once it is evaluated."""
    with store.write() as connection:
        connection.execute(
            sa.update(schema.releases)
            .where(schema.releases.c.id == release_id, schema.releases.c.state == "candidate")
            .values(summary=summary, content_hash=content_hash)
        )


def promote(store: Store, release_id: str, actor: str, was: str | None = None) -> Release | None:
    """Make a release live and retire the one before it, in one transaction. Returns the one before.

    An open canary ends with it, of whichever release. Raises `ReleaseError` for a rejected or unknown release, and
    for one whose state is not ``was`` where that is given.
    """
    with store.write() as connection:
        if was is not None:
            _check_state(connection, release_id, was)
        return _switch(connection, release_id, "retired", actor, "release.promote")


def rollback(store: Store, actor: str) -> tuple[Release, Release]:
    """Take the live release back and make its parent live again, or the next one up that was not itself taken
    back or rejected. Returns (taken back, live again).

    Raises `ReleaseError` when there is no live release, or none before it.
    """
    with store.write() as connection:
        row = connection.execute(sa.select(schema.releases).where(schema.releases.c.state == "live")).first()
        if row is None:
            raise ReleaseError("there is no live release to roll back")
        current = Release(*row)
        target = _good_ancestor(connection, current)
        if target is None:
            raise ReleaseError(
                f"release {current.id} is the first one; set router.enabled = false to send everything to the teacher"
            )
        _switch(connection, target, "rolled_back", actor, "release.rollback")
        again = connection.execute(sa.select(schema.releases).where(schema.releases.c.id == target)).one()
    return current, Release(*again)


def rollback_target(store: Store) -> Release | None:
    """The release that a rollback would make live again."""
    with store.read() as connection:
        row = connection.execute(sa.select(schema.releases).where(schema.releases.c.state == "live")).first()
        target = _good_ancestor(connection, Release(*row)) if row else None
    return get(store, target) if target else None


def live_before(store: Store) -> Release | None:
    """The release that the live one took over from, unless that was taken back; None where there is none."""
    table = schema.releases
    newest_first = table.c.promoted_at.desc(), (table.c.state == "live").desc()
    newest = sa.select(table).where(table.c.promoted_at.is_not(None)).order_by(*newest_first).limit(2)
    with store.read() as connection:
        found = [Release(*row) for row in connection.execute(newest)]
    if len(found) < 2 or (found[0].state, found[1].state) != ("live", "retired"):
        return None
    return found[1]


def _good_ancestor(connection: sa.Connection, release: Release) -> str | None:
    seen = {release.id}
    wanted = release.parent_id
    while wanted is not None and wanted not in seen:
        row = connection.execute(sa.select(schema.releases).where(schema.releases.c.id == wanted)).first()
        if row is None:
            return None
        ancestor = Release(*row)
        if ancestor.state not in ("rolled_back", "rejected") and PRUNED not in ancestor.summary:
            return ancestor.id
        seen.add(ancestor.id)
        wanted = ancestor.parent_id
    return None


def reject(store: Store, release_id: str, actor: str, why: str) -> None:
    """Mark a candidate, or what is tried as a canary, as rejected. A release in another state stays as it is."""
    with store.write() as connection:
        table = schema.releases
        its_row = sa.and_(table.c.id == release_id, table.c.state.in_(("candidate", "canary")))
        before = connection.execute(sa.select(table.c.state).where(its_row).with_for_update()).scalar()
        if before is not None:
            connection.execute(sa.update(table).where(its_row).values(state="rejected"))
            close(connection, "rejected", of=release_id)
            change = {"before": {"state": before}, "after": {"state": "rejected"}}
            audit(connection, actor, "release.reject", release_id, {"why": why, **change})
            outbox.put(connection, "release.rejected", release_id, {"release": release_id, "by": actor, "why": why})


def _check_state(connection: sa.Connection, release_id: str, state: str) -> None:
    table = schema.releases
    is_so = sa.select(table.c.id).where(table.c.id == release_id, table.c.state == state).with_for_update()
    if connection.execute(is_so).first() is None:
        raise ReleaseError(f"release {release_id} is no {state} any more")


def _switch(connection: sa.Connection, release_id: str, old_state: str, actor: str, action: str) -> Release | None:
    row = connection.execute(sa.select(schema.releases).where(schema.releases.c.id == release_id)).first()
    if row is None:
        raise ReleaseError(f"there is no release {release_id!r}; `stillroom distill list` shows them")
    release = Release(*row)
    if release.state == "rejected":
        raise ReleaseError(f"release {release_id} was rejected by its gate and cannot go live")
    if PRUNED in release.summary:
        raise ReleaseError(f"release {release_id} cannot go live: its files were pruned (distill.keep_releases)")
    old = connection.execute(sa.select(schema.releases).where(schema.releases.c.state == "live")).first()
    before = Release(*old) if old else None
    if before is not None and before.id == release_id:
        return before
    table = schema.releases
    connection.execute(sa.update(table).where(table.c.state == "live").values(state=old_state))
    connection.execute(sa.update(table).where(table.c.id == release_id).values(state="live", promoted_at=now_ms()))
    close(connection, "superseded", live_id=release_id)
    was = before.id if before else None
    change = {"before": {"live": was, "state": release.state}, "after": {"live": release_id, "state": "live"}}
    audit(connection, actor, action, release_id, change)
    outbox.put(connection, SAID[action], release_id, {"live": release_id, "before": was, "by": actor})
    return before
