"""Lists that are read newest first, page by page."""

import sqlalchemy as sa

__all__ = ("behind", "newest_first")


def newest_first(table: sa.Table) -> tuple[sa.ColumnElement[int], sa.ColumnElement[str]]:
    """The order of a table that has ``created_at`` and ``id``."""
    return table.c.created_at.desc(), table.c.id.desc()


def behind(connection: sa.Connection, table: sa.Table, last: str) -> sa.ColumnElement[bool] | None:
    """What comes after the row of this id in that order; None where there is no such row."""
    at = connection.execute(sa.select(table.c.created_at).where(table.c.id == last)).scalar()
    if at is None:
        return None
    return sa.or_(table.c.created_at < at, sa.and_(table.c.created_at == at, table.c.id < last))
