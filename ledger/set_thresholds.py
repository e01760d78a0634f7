"""Thresholds that a person has set in place of those that a release came with.

They are written into the release's summary, so that they go with it: to every gateway process, and to whenever it is
live again.
"""

from typing import Annotated, Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from ledger import schema
from ledger.audit import record as audit
from ledger.releases import Release, ReleaseError
from ledger.store import Store

__all__ = ("Bar", "Bars", "SetThresholds", "clear", "put", "set_on")

FIELD: Final = "set_thresholds"
"""Where a release's summary has them."""

Bar = Annotated[float, Meta(ge=0, le=2)]
"""A threshold of a probability; nothing passes one above 1."""


class Bars(msgspec.Struct, frozen=True, kw_only=True):
    """Four thresholds, as `router.thresholds.Thresholds` has them."""

    hard: Bar
    confident: Bar
    confident_end: Bar
    sure: Bar


class SetThresholds(Bars, frozen=True, kw_only=True):
    """Who set them and when, in ms since the epoch. ``guaranteed``: what the release promises holds for them too."""

    at: int
    actor: str
    guaranteed: bool


def set_on(release: Release) -> SetThresholds | None:
    """Those that are set; None where the release keeps to its own, or what is written cannot be read."""
    try:
        return msgspec.convert(release.summary.get(FIELD), SetThresholds | None)
    except msgspec.ValidationError:
        return None


def put(store: Store, release_id: str, wanted: SetThresholds, own: Bars) -> None:
    """Set them on the live release. Raises `ReleaseError` where another one is live.

    ``own`` are the release's own, for the audit.
    """
    _change(store, release_id, wanted, own, wanted.actor)


def clear(store: Store, release_id: str, own: Bars, actor: str) -> bool:
    """Have the live release keep to its own again. Returns whether others were set. Raises `ReleaseError`."""
    return _change(store, release_id, None, own, actor)


def _change(store: Store, release_id: str, wanted: SetThresholds | None, own: Bars, actor: str) -> bool:
    table = schema.releases
    its_row = (table.c.id == release_id, table.c.state == "live")
    with store.write() as connection:
        row = connection.execute(sa.select(table).where(*its_row).with_for_update()).first()
        if row is None:
            raise ReleaseError(f"release {release_id} is not live any more; load the page again")
        release = Release(*row)
        before = set_on(release)
        if before is None and wanted is None:
            return False
        summary = {name: value for name, value in release.summary.items() if name != FIELD}
        if wanted is not None:
            summary[FIELD] = msgspec.to_builtins(wanted)
        connection.execute(sa.update(table).where(*its_row).values(summary=summary))
        detail: dict[str, Any] = {"before": _plain(before or own), "after": _plain(wanted or own)}
        action = "router.thresholds.set" if wanted else "router.thresholds.undo"
        audit(connection, actor, action, release_id, detail | {"guaranteed": wanted is None or wanted.guaranteed})
    return True


def _plain(bars: Bars) -> dict[str, float]:
    return {name: getattr(bars, name) for name in Bars.__struct_fields__}
