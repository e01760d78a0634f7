"""What is kept of every row that may be taken: a few columns, in a database on disk that is gone with its connection.

Rows are numbered in the order in which they were added, oldest first. What is chosen of them is chosen by SQL, which
sorts on disk, so that memory does not grow with the rows.
"""

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final, Self

import numpy as np

from distill.data.rows import Row, identity

__all__ = ("RowIndex",)

UNKNOWN_INTEREST: Final = 0.5
ADDED_AT_ONCE: Final = 1_000
SETUP: Final = (
    # the database of the connection is empty: temporary tables are what goes to an unlinked file
    "pragma temp_store = file",
    "pragma temp.journal_mode = off",
    "pragma temp.cache_size = -4000",
    """
    create temp table rows(
        number integer primary key, id text, created_at integer, identity integer, key integer, answer integer,
        held_out integer, corrected integer, propensity real, interest real, likelihood real
    )
    """,
    "create temp table train(rank integer primary key, number integer, chance real)",
    "create temp table kept(rank integer primary key, number integer, chance real)",
    "create temp view trainable as select rank, chance, rows.* from train join rows using (number)",
    "begin",
)


class RowIndex:
    """The table ``rows``, and ``train``: which of them are still to be trained on. A context manager, for its file.

    ``identity`` is equal for equal conversations, ``key`` and ``answer`` number API keys and clusters of answers,
    ``interest`` is how much the student has to learn of a row, 0 to 1, ``likelihood`` the teacher's mean
    log-probability of its own tokens in nats, null where none was logged. In ``train``, ``rank`` orders by age, and
    ``chance`` is the one that a row had to be taken. The view ``trainable`` has the columns of both.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        for statement in SETUP:
            self._database.execute(statement)
        self._keys: dict[str, int] = {}
        self._rows = 0
        self._added: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Give the file up. Raises `OSError` for what SQLite could not write to it."""
        self._database.close()
        if isinstance(error, sqlite3.OperationalError):
            raise OSError(f"temporary file of a dataset's rows (where TMPDIR says): {error}") from error

    def __len__(self) -> int:
        """How many rows."""
        return self._rows

    def add(self, row: Row, held_out: bool, answer: int) -> int:
        """Take a row whose answer belongs to a cluster of this number; returns the number of its API key."""
        key = self._keys.setdefault(row.key_id, len(self._keys))
        measured = (row.propensity, _interest(row), _mean_logprob(row.logprobs))
        whose = (identity(row.messages) - (1 << 63), key, answer, held_out, row.corrected)
        self._added.append((self._rows, row.id, row.created_at, *whose, *map(_single, measured)))
        self._rows += 1
        if len(self._added) == ADDED_AT_ONCE:
            self._flush()
        return key

    def execute(self, statement: str, **values: Any) -> sqlite3.Cursor:
        """Run a statement over all rows that were added."""
        self._flush()
        return self._database.execute(statement, values)

    def insert(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for each of these."""
        self._database.executemany(statement, rows)

    def number_of(self, statement: str, **values: Any) -> int:
        """The one number that a query gives, 0 for null."""
        return self.execute(statement, **values).fetchone()[0] or 0

    def keep(self, query: str, **values: Any) -> int:
        """Leave in ``train`` what a query gives (rank, number, chance); returns how many rows fewer that are."""
        before = self.number_of("select count(*) from train")
        left = self.execute(f"insert into kept {query}", **values).rowcount
        self.execute("delete from train")
        self.execute("insert into train select * from kept")
        self.execute("delete from kept")
        return before - left

    def offer(self, name: str, function: Callable[..., float], arguments: int) -> None:
        """Make a function known to SQL, which is the same for the same arguments."""
        self._database.create_function(name, arguments, function, deterministic=True)

    def id_of(self, number: int) -> str:
        """The request's id."""
        return self.execute("select id from rows where number = :number", number=number).fetchone()[0]

    def _flush(self) -> None:
        if self._added:
            self._database.executemany("insert into rows values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._added)
            self._added.clear()


def _single(value: float) -> float:
    """In single precision; SQLite has null for what is not a number."""
    return float(np.float32(value))


def _interest(row: Row) -> float:
    """Where the student was compared, how far it was off; else whether the router kept the request from it."""
    if row.agreement is not None:
        return 1.0 - row.agreement
    if row.corrected or row.reason in ("hard", "low_confidence"):
        return 1.0
    return UNKNOWN_INTEREST if row.confidence is None else 1.0 - row.confidence


def _mean_logprob(logprobs: list[Any] | None) -> float:
    values = [float(token["logprob"]) for token in logprobs or () if token.get("logprob") is not None]
    return sum(values) / len(values) if values else float("nan")
