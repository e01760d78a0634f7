"""What is kept in memory of every row that may be taken: some 74 bytes, so that millions fit."""

from array import array
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from distill.data.rows import Row, identity

__all__ = ("RowIndex",)

UNKNOWN_INTEREST: Final = 0.5


class RowIndex:
    """Columns by row number, in the order in which rows were added: oldest first."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        """Ids of the API keys; `key` counts from 0 in it."""
        self._numbers: dict[str, int] = {}
        self._ids = bytearray()
        self._ends = array("Q", [0])
        self._created_at, self._identity = array("q"), array("Q")
        self._key, self._answer = array("i"), array("I")
        self._held_out, self._corrected = array("b"), array("b")
        self._propensity, self._interest, self._likelihood = array("f"), array("f"), array("f")

    def add(self, row: Row, held_out: bool, answer: int) -> int:
        """Take a row whose answer belongs to a cluster of this number (32 bits); returns the row's number."""
        self._ids += row.id.encode()
        self._ends.append(len(self._ids))
        self._created_at.append(row.created_at)
        self._identity.append(identity(row.messages))
        if row.key_id not in self._numbers:
            self._numbers[row.key_id] = len(self.keys)
            self.keys.append(row.key_id)
        self._key.append(self._numbers[row.key_id])
        self._answer.append(answer)
        self._held_out.append(held_out)
        self._corrected.append(row.corrected)
        self._propensity.append(row.propensity)
        self._interest.append(_interest(row))
        self._likelihood.append(_mean_logprob(row.logprobs))
        return len(self._key) - 1

    def __len__(self) -> int:
        """How many rows."""
        return len(self._key)

    def key_of(self, row: int) -> int:
        """The API key's number in `keys`."""
        return self._key[row]

    def id_of(self, row: int) -> str:
        """The request's id."""
        return self._ids[self._ends[row] : self._ends[row + 1]].decode()

    @property
    def created_at(self) -> NDArray[np.int64]:
        """When it was asked, ms."""
        return _view(self._created_at, np.int64)

    @property
    def identity(self) -> NDArray[np.uint64]:
        """Equal for equal conversations."""
        return _view(self._identity, np.uint64)

    @property
    def key(self) -> NDArray[np.int32]:
        """The API key's number in `keys`."""
        return _view(self._key, np.int32)

    @property
    def answer(self) -> NDArray[np.uint32]:
        """The number of the answer's cluster."""
        return _view(self._answer, np.uint32)

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """Which are never trained on."""
        return _view(self._held_out, np.bool_)

    @property
    def corrected(self) -> NDArray[np.bool_]:
        """Whose answer is a caller's correction."""
        return _view(self._corrected, np.bool_)

    @property
    def propensity(self) -> NDArray[np.float32]:
        """The chance by which the teacher was asked."""
        return _view(self._propensity, np.float32)

    @property
    def interest(self) -> NDArray[np.float32]:
        """How much the student has to learn of it, 0 to 1."""
        return _view(self._interest, np.float32)

    @property
    def likelihood(self) -> NDArray[np.float32]:
        """The teacher's mean log-probability of its own tokens, in nats; NaN where none was logged."""
        return _view(self._likelihood, np.float32)


def _view(column: "array[Any]", dtype: Any) -> NDArray[Any]:
    # a copy: an array cannot grow while something looks into it
    return np.array(column, dtype=dtype)


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
