"""Which requests are taken: what a dataset's settings, a job and a query of the ledger have in common."""

import re
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

__all__ = ("DatedFilters", "RequestFilters", "TrainableFilters", "moment_ms")

AGO: Final = re.compile(r"(\d{1,6})([hd])")
MS_OF: Final = {"h": 3_600_000, "d": 86_400_000}
LISTS: Final = ("tags", "keys", "routes", "reasons", "finish_reasons")


class RequestFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is taken of the ledger, whatever its age; an empty one takes all."""

    tags: tuple[str, ...] = ()
    """Only requests with one of these tags."""
    keys: tuple[str, ...] = ()
    """Only requests of these API keys, by id."""
    routes: tuple[Literal["student", "teacher"], ...] = ()
    """Only requests of these routes; of the student's only those that a caller corrected can be trained on."""
    reasons: tuple[str, ...] = ()
    """Only requests routed for these reasons."""
    finish_reasons: tuple[str, ...] = ()
    """Only answers that ended so."""
    min_feedback: float | None = None
    """Only answers whose newest feedback has at least this score; unset also takes those without feedback."""


class TrainableFilters(RequestFilters, frozen=True, forbid_unknown_fields=True):
    """`RequestFilters` between two times, in milliseconds since the epoch: from ``since`` on, before ``until``."""

    since: int = 0
    until: int | None = None


class DatedFilters(RequestFilters, frozen=True, forbid_unknown_fields=True):
    """`RequestFilters` between two times as people write them."""

    since: str | None = None
    """Only requests from then on: a date (``2026-11-01``), a time, or how long ago (``90d``, ``12h``)."""
    until: str | None = None
    """Only requests before then, said the same way."""

    def __post_init__(self) -> None:
        """Refuse a time that is none, as `ValueError`."""
        for text in (self.since, self.until):
            _ = moment_ms(text, 0)

    def filters(self, now: int) -> TrainableFilters:
        """What is asked of the ledger at a time (ms since the epoch)."""
        return TrainableFilters(
            since=moment_ms(self.since, now) or 0,
            # what comes while the ledger is read belongs to the next dataset
            until=now + 1 if self.until is None else moment_ms(self.until, now),
            **{name: getattr(self, name) for name in RequestFilters.__struct_fields__},
        )

    @property
    def given(self) -> dict[str, Any]:
        """The filters that take less than everything, by name."""
        named = {name: getattr(self, name) for name in DatedFilters.__struct_fields__}
        return {name: value for name, value in named.items() if value not in (None, ())}

    def narrowed(self, asked: "DatedFilters", now: int) -> dict[str, Any]:
        """The filters that ``asked`` changes here, so that less is taken, for `msgspec.structs.replace`.

        Raises `ValueError` where it names what is not taken here.
        """
        changes = asked.given
        for name in changes.keys() & set(LISTS):
            own = getattr(self, name)
            strange = [value for value in changes[name] if own and value not in own]
            if strange:
                raise ValueError(
                    f"{name}: {strange[0]!r} is not among {', '.join(own)}, which distill.data.{name} takes"
                )
        if asked.min_feedback is not None:
            changes["min_feedback"] = max(asked.min_feedback, self.min_feedback or 0.0)
        for name, nearer in (("since", max), ("until", min)):
            ends = [text for text in (getattr(self, name), getattr(asked, name)) if text is not None]
            if name in changes:
                changes[name] = nearer(ends, key=lambda text: moment_ms(text, now) or 0)
        return changes


def moment_ms(text: str | None, now: int) -> int | None:
    """Milliseconds since the epoch of a date or time (UTC where it names no zone), or of a time ago.

    Raises `ValueError` for any other text.
    """
    if text is None:
        return None
    ago = AGO.fullmatch(text)
    if ago is not None:
        return max(0, now - int(ago[1]) * MS_OF[ago[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: write 2026-11-01, 2026-11-01T12:00 or 30d") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
