"""What an estimate says, as JSON has it. Shares are from 0 to 1, money in the currency of the prices.

``ends`` are 95% intervals. Nothing of what was said is in here but the models' names.
"""

import msgspec

from distill.estimate.resampling import Ends

__all__ = ("Accounted", "Beyond", "Findings", "FormShare", "Inventory", "ModelUse", "Money", "Point", "Verdict")


class ModelUse(msgspec.Struct, kw_only=True):
    """One model's requests; ``cost`` is None where neither the logs nor a price says it."""

    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


class Inventory(msgspec.Struct, kw_only=True):
    """What the logs hold."""

    requests: int
    kept: int
    """Of which the text was kept."""
    days: float
    """0 where the logs name no times."""
    requests_per_day: float | None
    first: int
    last: int
    """Ms since the epoch; 0 where unknown."""
    models: list[ModelUse]
    cost: float | None
    by_day: list[tuple[int, int, float]]
    """Of each day (UTC, ms since the epoch): requests and cost."""
    by_hour: list[int]
    by_weekday: list[int]
    """From Monday on."""
    dearest: list[tuple[float, float]]
    """So large a share of the cost is by so large a share of the requests, the dearest ones."""
    repeated: float
    """Share of the requests whose messages had come before, to the letter."""
    same_answer: tuple[int, int]
    """Of so many repetitions the teacher gave its former answer again in so many: what no student can pass."""
    counts: dict[str, int]
    formats: dict[str, int]
    unsupported: dict[str, int]
    bad_lines: list[str]


class FormShare(msgspec.Struct, kw_only=True):
    """Requests by the form of their answer. ``moved`` is the share of the tested ones that the proxy may answer."""

    form: str
    share: float
    cost_share: float | None
    seen_before: float
    """Share of the sample's answers of this form that the sample has at least twice."""
    tested: int
    moved: float
    ends: Ends


class Point(msgspec.Struct, kw_only=True):
    """What the proxy reached with so many answers. ``alone`` is how often it agrees where it answers everything."""

    answers: int
    alone: float
    moved: float
    ends: Ends
    where_moved: float | None
    """How often it agrees where it may answer; None where it may not."""
    agreement: float
    """Of the whole: what the proxy may not answer, the teacher does."""


class Beyond(msgspec.Struct, kw_only=True):
    """Not measured: from no further gain to the curve going on as it went."""

    answers: int
    ends: Ends


class Accounted(msgspec.Struct, kw_only=True):
    """A month by one accounting of ``cost plan``. A payback is None for never."""

    accounting: str
    after: float
    saving: float
    saving_ends: Ends
    payback_days: float | None
    payback_ends: tuple[float | None, float | None]
    pays: bool
    why_not: str | None


class Money(msgspec.Struct, kw_only=True):
    """A month of thirty days."""

    before: float
    before_ends: Ends | None
    """None where the logs have fewer than seven days."""
    teacher_cost: float
    student_cost: float
    """Of a mean request."""
    cost_moved: float
    """Share of the teacher's cost that is spared."""
    cost_moved_ends: Ends
    training_cost: float
    accountings: list[Accounted]


class Verdict(msgspec.Struct, kw_only=True):
    """``says`` is one of: no text, too few, nothing, no money, does not pay, may pay, pays."""

    says: str
    sentence: str
    next: list[str]


class Findings(msgspec.Struct, kw_only=True):
    """All of it. Without text to learn from there is no curve; without prices and times there is no money."""

    inventory: Inventory
    target: float
    confidence: float
    answers_needed: int
    """Fewest with which anything can be promised."""
    sample: int
    tested: int
    forms: list[FormShare]
    curve: list[Point]
    agreement_ends: Ends | None
    """Of the last point's agreement: exact, of its run in the middle."""
    beyond: list[Beyond]
    answers_for_most: int | None
    """With so many answers nine tenths of what the last point moves were moved already."""
    money: Money | None
    verdict: Verdict
