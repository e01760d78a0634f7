"""Canaries: a release that is tried on a share of the traffic beside the champion, one at a time.

The states of the release, its job and the canary's row change in one transaction, so that whatever breaks off leaves
all three as they were or as they are to be.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec
import sqlalchemy as sa

from ledger import outbox, schema
from ledger.audit import record as audit
from ledger.canary_close import close
from ledger.jobs import ACTIVE_STATES, JobError
from ledger.releases import ReleaseError
from ledger.store import Store, now_ms

__all__ = ("Canary", "CanaryOpen", "Mode", "Trial", "current", "finish", "newest", "set_figures", "start")

Mode: TypeAlias = Literal["canary", "shadow"]
STARTABLE: Final = ("candidate", "retired", "rolled_back")


class CanaryOpen(ReleaseError):
    """Another one is open."""


class Canary(msgspec.Struct, frozen=True):
    """``mode``: ``canary`` answers its share of the conversations, ``shadow`` answers beside the champion, unseen.

    Times are milliseconds since the epoch. ``outcome`` is promoted, rolled_back, stopped, rejected, or superseded by
    another champion; None while it is open. ``figures`` are those of the newest look.
    """

    release_id: str
    champion_id: str
    mode: Mode
    share: float
    started_at: int
    ended_at: int | None
    outcome: str | None
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """How a release is to be tried; ``share`` is above 0 and at most 1."""

    mode: Mode
    share: float


def start(store: Store, release_id: str, trial: Trial, actor: str, lease_owner: str | None = None) -> Canary:
    """Try a release beside the one that is live. A job that waits for approval of it, or that this worker holds, goes
    into ``canary`` with it.

    Raises `CanaryOpen` where another one is open, `ReleaseError` where no release is live or the release is of no
    state that allows it, and `JobError` where another worker is still at its job.
    """
    table, now = schema.canaries, now_ms()
    with store.write() as connection:
        champion = _champion(connection)
        release = schema.releases
        state = connection.execute(
            sa.select(release.c.state).where(release.c.id == release_id).with_for_update()
        ).scalar()
        if state not in STARTABLE:
            what = f"is {state}" if state else "does not exist"
            raise ReleaseError(f"release {release_id} {what}: a canary is of a {', '.join(STARTABLE)} one")
        connection.execute(sa.update(release).where(release.c.id == release_id).values(state="canary"))
        _job_enters(connection, release_id, lease_owner)
        begun = Canary(release_id, champion, trial.mode, trial.share, now, None, None, {})
        connection.execute(sa.insert(table).values(msgspec.structs.asdict(begun)))
        detail = {"mode": trial.mode, "share": trial.share}
        change = {"before": {"state": state}, "after": {"state": "canary", "champion": champion, **detail}}
        audit(connection, actor, "canary.start", release_id, change)
        outbox.put(connection, "canary.started", release_id, {"release": release_id, "champion": champion, **detail})
    return begun


def _champion(connection: sa.Connection) -> str:
    """The live release's id, its row locked, so that of two who start a canary one comes second."""
    release, table = schema.releases, schema.canaries
    champion = connection.execute(sa.select(release.c.id).where(release.c.state == "live").with_for_update()).scalar()
    if champion is None:
        raise ReleaseError("no release is live to compare a canary with; `distill promote` makes one live")
    running = connection.execute(sa.select(table.c.release_id).where(table.c.ended_at.is_(None))).scalar()
    if running is not None:
        raise CanaryOpen(f"the canary of release {running} is open; `distill canary stop` ends it")
    return champion


def _job_enters(connection: sa.Connection, release_id: str, lease_owner: str | None) -> None:
    table, now = schema.jobs, now_ms()
    job = connection.execute(sa.select(table).where(table.c.release_id == release_id).with_for_update()).first()
    if job is None or not (job.state in ACTIVE_STATES or job.state == "awaiting_approval"):
        return
    if job.state in ACTIVE_STATES and job.lease_owner != lease_owner:
        raise JobError(f"job {job.id} is still at work on release {release_id}, and another holds it")
    values = {"state": "canary", "updated_at": now, "lease_owner": None, "lease_until": None}
    connection.execute(sa.update(table).where(table.c.id == job.id).values(values))
    event = {"job_id": job.id, "at": now, "kind": "state", "data": {"state": "canary"}}
    connection.execute(sa.insert(schema.job_events).values(event))
    outbox.job_changed(connection, job.id)


def current(store: Store) -> Canary | None:
    """The one that is open, or None."""
    return _first(store, sa.select(schema.canaries).where(schema.canaries.c.ended_at.is_(None)))


def newest(store: Store) -> Canary | None:
    """The one that is open, or else the one that was begun last."""
    table = schema.canaries
    return _first(store, sa.select(table).order_by(table.c.ended_at.is_not(None), table.c.started_at.desc()).limit(1))


def _first(store: Store, statement: sa.Select[Any]) -> Canary | None:
    with store.read() as connection:
        row = connection.execute(statement).mappings().first()
    return Canary(**cast("dict[str, Any]", dict(row))) if row else None


def set_figures(store: Store, canary: Canary, figures: dict[str, Any]) -> None:
    """Keep the figures of the newest look at an open canary; ``why`` among them is what its end will say."""
    table = schema.canaries
    with store.write() as connection:
        connection.execute(sa.update(table).where(_is(canary), table.c.ended_at.is_(None)).values(figures=figures))


def finish(store: Store, canary: Canary, outcome: Literal["rolled_back", "stopped"], actor: str) -> None:
    """Take the release back. It is promoted by `releases.promote`, which ends its canary too.

    Raises `ReleaseError` where the canary has ended already.
    """
    table = schema.canaries
    with store.write() as connection:
        is_open = connection.execute(
            sa.select(table.c.release_id).where(_is(canary), table.c.ended_at.is_(None))
        ).first()
        if is_open is None or not close(connection, outcome):
            raise ReleaseError(f"the canary of release {canary.release_id} has ended already")
        before = {"state": "canary", "mode": canary.mode, "share": canary.share}
        change = {"before": before, "after": {"state": "rolled_back", "outcome": outcome}}
        audit(connection, actor, f"canary.{outcome}", canary.release_id, change)


def _is(canary: Canary) -> sa.ColumnElement[bool]:
    table = schema.canaries
    return sa.and_(table.c.release_id == canary.release_id, table.c.started_at == canary.started_at)
