"""Which releases' files are kept: pins, and the newest of those that are no longer served."""

from typing import Any, Final

import sqlalchemy as sa

from ledger import releases, schema
from ledger.audit import record as audit
from ledger.releases import PRUNED, Release, ReleaseError
from ledger.store import Store, now_ms

__all__ = ("amend_summary", "expendable", "mark_pruned", "pin")

PAST_STATES: Final = ("retired", "rejected", "rolled_back")
_table = schema.releases


def pin(store: Store, release_id: str, pinned: bool, actor: str) -> None:
    """Keep a release's files whatever `expendable` says, or no longer. Raises `ReleaseError`."""
    with store.write() as connection:
        its_row = _table.c.id == release_id
        before = connection.execute(sa.select(_table.c.pinned).where(its_row).with_for_update()).scalar()
        if before is None:
            raise ReleaseError(f"there is no release {release_id!r}; `stillroom distill releases` shows them")
        connection.execute(sa.update(_table).where(its_row).values(pinned=pinned))
        change = {"before": {"pinned": before}, "after": {"pinned": pinned}}
        audit(connection, actor, "release.pin" if pinned else "release.unpin", release_id, change)


def expendable(store: Store, keep: int) -> list[Release]:
    """The releases whose files may go, oldest first: retired, rejected or rolled back, and not the ``keep`` newest.

    Never one that is pinned, nor the one that a rollback would bring back.
    """
    target = releases.rollback_target(store)
    past = [
        release
        for release in releases.list_releases(store)
        if release.state in PAST_STATES and not release.pinned and PRUNED not in release.summary
    ]
    return [release for release in past[: max(0, len(past) - keep)] if target is None or release.id != target.id]


def mark_pruned(store: Store, release_id: str, actor: str) -> bool:
    """Note that a release's files are about to be deleted: from now on it cannot go live.

    False, and nothing noted, for one that was pinned or promoted meanwhile.
    """
    with store.write() as connection:
        row = connection.execute(sa.select(_table).where(_table.c.id == release_id)).first()
        release = Release(*row) if row else None
        if release is None or release.pinned or release.state not in PAST_STATES:
            return False
        values = {"summary": release.summary | {PRUNED: now_ms()}}
        connection.execute(sa.update(_table).where(_table.c.id == release_id).values(values))
        change = {"before": {"files": release.folder}, "after": {"files": None}}
        audit(connection, actor, "release.prune", release_id, {"folder": release.folder, **change})
    return True


def amend_summary(store: Store, release_id: str, facts: dict[str, Any]) -> None:
    """Add facts to a release's summary, whatever its state."""
    with store.write() as connection:
        row = connection.execute(sa.select(_table.c.summary).where(_table.c.id == release_id)).one()
        connection.execute(sa.update(_table).where(_table.c.id == release_id).values(summary=row.summary | facts))
