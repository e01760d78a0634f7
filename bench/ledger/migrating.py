"""A ledger's schema, taken to another revision."""

from collections.abc import Callable
from typing import Final

from alembic.config import Config

from ledger import migrations
from ledger.store import Store

__all__ = ("FIRST", "migrate_to")

FIRST: Final = "0001"
"""The lowest that has rows: below it there are no tables."""


def migrate_to(store: Store, move: Callable[[Config, str], object], revision: str) -> None:
    """By ``upgrade`` or ``downgrade`` of ``alembic.command``."""
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0])
    with store.write("migration") as connection:
        config.attributes["connection"] = connection
        move(config, revision)
