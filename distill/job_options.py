"""What one job does otherwise than ``[distill]`` says: taken where it narrows, and never where it would widen."""

from collections.abc import Mapping
from typing import Any

import msgspec

from distill.context import JobFailed
from distill.settings import DistillSettings
from ledger.job_settings import JobSettings

__all__ = ("as_asked",)


def as_asked(settings: DistillSettings, asked: Mapping[str, Any]) -> DistillSettings:
    """The settings of a job whose row asks for something of its own. Raises `JobFailed` for what is no such thing."""
    try:
        job = msgspec.convert(dict(asked), JobSettings)
    except msgspec.ValidationError as error:
        raise JobFailed(f"the job's own settings cannot be used: {error}") from error
    return msgspec.structs.replace(
        settings,
        max_examples=min(settings.max_examples, job.max_examples or settings.max_examples),
        start_from=job.start_from or settings.start_from,
    )
