"""What one job does otherwise than ``[distill]`` says: taken where it narrows, and never where it would widen."""

from collections.abc import Mapping
from typing import Any

import msgspec

from distill.context import JobFailed
from distill.data.settings import DataSettings
from distill.settings import DistillSettings
from ledger.job_settings import JobSettings
from ledger.request_filters import DatedFilters
from ledger.store import now_ms

__all__ = ("as_asked", "narrowed")


def as_asked(settings: DistillSettings, asked: Mapping[str, Any]) -> DistillSettings:
    """The settings of a job whose row asks for something of its own. Raises `JobFailed` for what is no such thing.

    A job with filters waits for a person: its gate sees a part of the traffic, and its release would serve all of it.
    """
    try:
        job = msgspec.convert(dict(asked), JobSettings)
        data = narrowed(settings.data, job)
    except ValueError as error:
        raise JobFailed(f"the job's own settings cannot be used: {error}") from error
    return msgspec.structs.replace(
        settings,
        approval="manual" if job.given else settings.approval,
        data=data,
        max_examples=min(settings.max_examples, job.max_examples or settings.max_examples),
        start_from=job.start_from or settings.start_from,
    )


def narrowed(settings: DataSettings, asked: DatedFilters) -> DataSettings:
    """The settings of a dataset with further filters. Raises `ValueError` where those would take more."""
    return msgspec.structs.replace(settings, **settings.narrowed(asked, now_ms()))
