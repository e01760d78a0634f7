"""Replays: requests that a person had asked again of one route, to see its answer.

A replay is a row of its own: billed to the key of who asked for it, never trained on, without a baseline, since no
client asked. A tag names the request that it repeats.
"""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from ledger import schema
from ledger.store import Store

__all__ = ("REPLAY", "origin_of", "replays_of", "tag_of")

REPLAY: Final = "replay"
"""The reason of the rows of replays."""
TAG: Final = "replay-of:"


def tag_of(request_id: str) -> str:
    """The tag of a replay of this request."""
    return f"{TAG}{request_id}"


def origin_of(tags: Sequence[str]) -> str | None:
    """The id of the request that a row with these tags repeats; None where it repeats none."""
    return next((tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)), None)


def replays_of(store: Store, request_ids: Sequence[str]) -> list[str]:
    """The ids of the replays of these requests, newest first, as far as the content of both is kept.

    All replays are looked at: people make them one at a time.
    """
    table, contents, origin = schema.requests, schema.contents, schema.contents.alias()
    conversations = sa.select(origin.c.conversation_id).where(origin.c.request_id.in_(request_ids))
    statement = (
        sa.select(table.c.id, table.c.tags)
        .join(contents, contents.c.request_id == table.c.id)
        # written out, since a partial index serves no value that comes with the query
        .where(table.c.reason == sa.literal_column(f"'{REPLAY}'"), contents.c.conversation_id.in_(conversations))
        .order_by(table.c.created_at.desc(), table.c.id.desc())
    )
    wanted = set(request_ids)
    with store.read() as connection:
        return [row.id for row in connection.execute(statement) if origin_of(row.tags) in wanted]
