"""Made-up requests, oldest first: spread over keys, tags, models, reasons and releases as services' are.

A key's share falls as one over its rank, a day has a rhythm, and the student's share grows with each release. One in
fifty of the student's answers has a row of the teacher's beside it, with a label.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from ledger.labels import Label
from ledger.records import Content, RequestRecord
from ledger.request_ids import new_id
from ledger.rollups import DAY_MS, HOUR_MS

__all__ = ("DAYS", "ERA_DAYS", "KEYS", "RARE_KEY", "RARE_TAG", "RELEASES", "of_day", "traffic")

DAYS: Final = 90
KEYS: Final = [f"key_{i:02d}" for i in range(40)]
TAGS: Final = [f"team-{i}" for i in range(8)] + ["feature:search", "feature:chat", "batch", "rare"]
RARE_KEY, RARE_TAG = KEYS[-1], TAGS[-1]
MODELS: Final = ["auto", "gpt-4o", "gpt-4o-mini", "stillroom-student"]
RELEASES: Final = 6
ERA_DAYS: Final = DAYS // RELEASES
"""As long is a release live."""
EXPLORED: Final = 0.02
TEACHER_REASONS: Final = ["hard", "low_confidence", "budget", "pinned"]
TEACHER_SHARES: Final = [0.55, 0.35, 0.05, 0.05]
WORDS: Final = [word[:size] for word in ("conversation", "statement", "refundable") for size in range(2, 11)]


def traffic(rows: int, begins_at: int, seed: int = 0) -> Iterator[RequestRecord]:
    """The records of one day after another from the hour of a time (ms) on, as many a day as make so many in `DAYS`
    days; those beside others are among them. The releases change as they do in these days.
    """
    chance = np.random.default_rng(seed)
    for day in range(DAYS):
        yield from of_day(rows, begins_at // HOUR_MS * HOUR_MS + day * DAY_MS, day // ERA_DAYS, chance)


def of_day(rows: int, begins: int, era: int, chance: np.random.Generator) -> Iterator[RequestRecord]:
    """Those of 24 hours; ``era`` numbers the release that was live."""
    weight = 1.2 + np.sin(2 * np.pi * (np.arange(24) - 9) / 24)
    counts = chance.poisson(weight / weight.sum() * rows / DAYS / (1 + EXPLORED / 2))
    for hour, count in enumerate(counts):
        yield from _hour(begins + hour * HOUR_MS, era, int(count), chance)


def _hour(begins: int, era: int, count: int, chance: np.random.Generator) -> Iterator[RequestRecord]:
    """The requests of one hour; ``era`` numbers the release that was live."""
    drawn = _drawn(era, count, chance)
    words = chance.integers(len(WORDS), size=(count, 30))
    for i, at in enumerate(np.sort(chance.integers(HOUR_MS, size=count)).tolist()):
        of = {name: values[i] for name, values in drawn.items()}
        record = _record(begins + at, era, of, [WORDS[j] for j in words[i]])
        yield record
        if of["explored"] and record.route == "student":
            yield _beside(record, of["agrees"])


def _drawn(era: int, count: int, chance: np.random.Generator) -> dict[str, list[Any]]:
    ranks = 1 / np.arange(1, len(KEYS) + 1)
    tags = np.array([*[0.14] * 8, 0.15, 0.15, 0.08, 0.0005])
    return {
        "student": (chance.random(count) < 0.3 + 0.1 * era).tolist(),
        "explored": (chance.random(count) < EXPLORED).tolist(),
        "agrees": (chance.random(count) < 0.93).tolist(),
        "key": chance.choice(KEYS, count, p=ranks / ranks.sum()).tolist(),
        "tags": (chance.random((count, len(TAGS))) < tags).tolist(),
        "model": chance.choice(MODELS, count, p=[0.8, 0.12, 0.06, 0.02]).tolist(),
        "why": chance.choice(TEACHER_REASONS, count, p=TEACHER_SHARES).tolist(),
        "score": chance.random(count).tolist(),
        "failed": (chance.random(count) < 0.01).tolist(),
        "stream": (chance.random(count) < 0.6).tolist(),
        "tokens": chance.geometric([1 / 300, 1 / 120], (count, 2)).tolist(),
        "latency": chance.lognormal(6, 1, count).tolist(),
    }


def _record(at: int, era: int, of: dict[str, Any], words: list[str]) -> RequestRecord:
    prompt, completion = of["tokens"]
    baseline, student = prompt * 2_500 + completion * 10_000, of["student"]
    asked, answer = " ".join(words[:20]), " ".join(words[20:])
    return RequestRecord(
        id=new_id(at),
        created_at=at,
        key_id=of["key"],
        model=of["model"],
        route="student" if student else "teacher",
        reason="confident" if student else of["why"],
        release_id=f"r{era}",
        score=of["score"],
        status=500 if of["failed"] else 200,
        error_code="upstream_error" if of["failed"] else None,
        finish_reason=None if of["failed"] else "stop",
        stream=of["stream"],
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost_nano=prompt * 90 + completion * 350 if student else baseline,
        baseline_nano=baseline,
        latency_ms=of["latency"],
        first_token_ms=of["latency"] / 5 if of["stream"] else None,
        tags=[tag for tag, given in zip(TAGS, of["tags"], strict=True) if given],
        content=Content(messages=[{"role": "user", "content": asked}], answer=answer),
    )


def _beside(record: RequestRecord, agrees: bool) -> RequestRecord:
    label = Label(
        request_id=record.id,
        source="explore",
        created_at=record.created_at,
        release_id=record.release_id,
        comparator="exact",
        agreement=float(agrees),
        propensity=EXPLORED,
    )
    return RequestRecord(
        id=f"{record.id}-explore",
        created_at=record.created_at,
        key_id=record.key_id,
        model=record.model,
        route="teacher",
        reason="explore",
        release_id=record.release_id,
        propensity=EXPLORED,
        finish_reason="stop",
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cost_nano=record.baseline_nano,
        latency_ms=record.latency_ms,
        tags=record.tags,
        content=record.content,
        label=label,
    )
