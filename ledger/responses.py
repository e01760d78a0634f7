"""The ``responses`` table: what ``/v1/responses`` answered, and the conversation that it belongs to."""

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from ledger import schema
from ledger.records import compressed, decompressed
from ledger.store import Store

__all__ = ("StoredBody", "StoredResponse", "delete", "encode_body", "expire", "get", "save")


class StoredBody(msgspec.Struct):
    """What was said."""

    response: msgspec.Raw
    """The response object, in the bytes that the client got."""
    items: list[dict[str, Any]]
    """The input of the whole conversation up to this response, its own at the end."""


class StoredResponse(msgspec.Struct, frozen=True):
    """A response as it is kept. ``created_at`` is milliseconds since the epoch."""

    id: str
    created_at: int
    key_id: str | None
    request_id: str
    previous_id: str | None
    body: bytes
    """A `StoredBody` as JSON."""

    def read(self) -> StoredBody:
        """The body, decoded."""
        return _decoder.decode(self.body)


encode_body = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(StoredBody)


def save(store: Store, responses: Sequence[StoredResponse]) -> None:
    """Add responses, their bodies compressed with zstd. One that is there already is replaced."""
    ids = [response.id for response in responses]
    rows = [msgspec.structs.asdict(response) | {"body": compressed(response.body)} for response in responses]
    with store.write(None) as connection:
        connection.execute(sa.delete(schema.responses).where(schema.responses.c.id.in_(ids)))
        connection.execute(sa.insert(schema.responses), rows)


def get(store: Store, response_id: str) -> StoredResponse | None:
    """A response by its id, or None."""
    with store.read() as connection:
        row = connection.execute(sa.select(schema.responses).where(schema.responses.c.id == response_id))
        found = row.mappings().first()
    if found is None:
        return None
    values: dict[str, Any] = dict(found)
    values["body"] = decompressed(values["body"])
    return StoredResponse(**values)


def delete(store: Store, response_id: str) -> bool:
    """Delete a response. Returns whether there was one."""
    with store.write(None) as connection:
        return bool(connection.execute(_deletion(schema.responses.c.id == response_id)).rowcount)


def expire(store: Store, before: int) -> int:
    """Delete the responses that are older than a time (ms). Returns how many."""
    with store.write(None) as connection:
        return int(connection.execute(_deletion(schema.responses.c.created_at < before)).rowcount)


def _deletion(condition: sa.ColumnElement[bool]) -> sa.Delete:
    return sa.delete(schema.responses).where(condition)
