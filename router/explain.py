"""Why a request took its route, in sentences for people: the rule, the numbers and their thresholds, the words."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from ledger.records import Content
from router.features import RequestView
from router.model import RouterModel
from router.policy import Capabilities, Decision, decide, unsupported_reason
from router.thresholds import Thresholds

__all__ = ("Background", "Explanation", "Word", "explain", "explain_text", "telling_words")

MAX_WORDS: Final = 5
MAX_TRIED: Final = 60
"""So many different words of a request are tried: each costs a decision."""
EDGE: Final = 1e-6
UNUSUAL: Final = 0.5
"""Novelty beyond this is above that of all its training requests."""


class Word(msgspec.Struct, frozen=True):
    """What a word does to the score: the log-odds with it less those without. Below 0 it speaks for the teacher."""

    word: str
    effect: float


class Explanation(msgspec.Struct, frozen=True):
    """`why` has one sentence each; `words` is empty where the content was not kept or no router is at hand."""

    route: str
    reason: str
    why: list[str]
    words: list[Word]


@dataclass(frozen=True, slots=True)
class Background:
    """What was in force when the request was decided, as far as it is still known."""

    router: RouterModel | None = None
    """The router of the request's release."""
    capabilities: Capabilities | None = None
    """Today's; the settings' of another time are not kept."""


def explain(row: Mapping[str, Any], content: Content | None, background: Background) -> Explanation:
    """Of a row of ``requests`` with its content, where that was kept."""
    body = content.parameters | {"messages": content.messages} if content else None
    view = RequestView.from_body(body, row.get("tags") or ()) if body else None
    thresholds = background.router.thresholds if background.router else None
    facts = _Facts(row, thresholds, view, background.capabilities)
    why = [_REASONS.get(str(row["reason"]), _other)(facts), *_numbers(facts)]
    if content is not None and content.least_likely is not None and row["confidence"] is not None:
        token, logprob = content.least_likely
        share = math.exp(min(logprob, 0.0))
        why.append(f"The student was least sure of the token {token!r}: it gave it a probability of {share:.2g}.")
    words = telling_words(background.router, view) if background.router and view and row["score"] is not None else []
    return Explanation(str(row["route"]), str(row["reason"]), why, words)


def explain_text(text: str, router: RouterModel | None, capabilities: Capabilities) -> Explanation:
    """How a request of this text alone would be decided now, before the student has said anything."""
    view = RequestView(messages=(("user", text),))
    decision: Decision = decide(view, router, capabilities)
    row = {
        "route": decision.route,
        "reason": decision.reason,
        "score": decision.score,
        "confidence": None,
        "novelty": decision.novelty,
        "stream": False,
    }
    facts = _Facts(row, router.thresholds if router else None, view, capabilities)
    tried = decision.is_provisional and router is not None
    why = [_tried(facts) if tried else _REASONS[decision.reason](facts), *_numbers(facts)]
    words = telling_words(router, view) if router and decision.score is not None else []
    return Explanation(decision.route, decision.reason, why, words)


def telling_words(router: RouterModel, view: RequestView) -> list[Word]:
    """The words of the user's turns that move the score most, by leaving out each in turn; strongest first."""
    whole = _logit(router.score(view))
    words = list(dict.fromkeys(word for role, text in view.messages if role == "user" for word in text.split()))
    effects = [Word(word, whole - _logit(router.score(_without(view, word)))) for word in words[:MAX_TRIED]]
    return sorted((each for each in effects if abs(each.effect) >= 0.005), key=lambda each: -abs(each.effect))[
        :MAX_WORDS
    ]


@dataclass(frozen=True, slots=True)
class _Facts:
    row: Mapping[str, Any]
    thresholds: Thresholds | None
    view: RequestView | None
    capabilities: Capabilities | None


def _unsupported(facts: _Facts) -> str:
    can_tell = facts.view is not None and facts.capabilities is not None
    found = unsupported_reason(facts.view, facts.capabilities) if facts.view and facts.capabilities else None
    if found is not None:
        return f"The student cannot take it: the request {found}."
    why = "by today's settings it would" if can_tell else "what it asked for was not kept"
    return f"The student could not take it, or its server refused it; {why}."


def _hard(facts: _Facts) -> str:
    if facts.thresholds is not None and not facts.thresholds.feasible:
        target = facts.thresholds.agreement_target
        return f"No thresholds were shown to keep an agreement of {target:.1%}, so the teacher answers everything."
    return f"Its score is too low: the student's answer would do with a probability of {_of(facts, 'score')}."


def _confident(facts: _Facts) -> str:
    if facts.row["confidence"] is None:
        return f"Its score is high: the student's answer will do with a probability of {_of(facts, 'score')}."
    return f"The student was sure enough: its answer will do with a probability of {_of(facts, 'confidence')}."


def _tried(facts: _Facts) -> str:
    bars = facts.thresholds
    stands = (
        f"{bars.confident_end:.3f} by the whole answer, or {bars.confident:.3f} by a stream's start" if bars else ""
    )
    return (
        f"The student is tried: its answer will do with a probability of {_of(facts, 'score')}. It stands if the "
        f"student's own confidence is at least {stands}; else the teacher answers."
    )


def _low_confidence(facts: _Facts) -> str:
    return (
        "The student was asked and was not sure enough: its answer would have done with a probability of "
        f"{_of(facts, 'confidence')}. The teacher answered instead."
    )


def _budget(facts: _Facts) -> str:
    if facts.row["score"] is None:
        return "The budget of its key is spent, and the key's policy lets the student go on answering."
    return "The teacher's ceiling was reached, and other requests gain more by the teacher than this one."


def _pinned(facts: _Facts) -> str:
    return (
        f"It was pinned to the {facts.row['route']}: by its model name, the header x-stillroom-route, its key's "
        "default route, or router.enabled = false."
    )


def _explored(facts: _Facts) -> str:
    return f"The {facts.row['route']} was asked beside the other side, in the background, to learn how they compare."


def _other(facts: _Facts) -> str:
    return f"The reason is {facts.row['reason']}."


_REASONS: Final[dict[str, Callable[[_Facts], str]]] = {
    "no_release": lambda _: "There is no release live, so the teacher answers everything.",
    "unsupported": _unsupported,
    "hard": _hard,
    "confident": _confident,
    "low_confidence": _low_confidence,
    "budget": _budget,
    "pinned": _pinned,
    "explore": _explored,
    "replay": lambda facts: f"A person asked the {facts.row['route']} an earlier request again, to see its answer.",
    "student_down": lambda _: "It was the student's, which was not there to answer, so that the teacher did.",
    "teacher_down": lambda _: "It was the teacher's, which was not there to answer, so that the student did.",
}


def _numbers(facts: _Facts) -> list[str]:
    """Each number with what it was held against."""
    row, bars = facts.row, facts.thresholds
    said: list[str] = []
    if row["score"] is not None and bars is not None and bars.feasible:
        sure = f", and from {bars.sure:.3f} on its answer stands" if bars.sure <= 1.0 else ""
        said.append(f"Score {row['score']:.3f}: the student is tried from {bars.hard:.3f} on{sure}.")
    if row["confidence"] is not None and bars is not None:
        bar, of = (bars.confident, "the first tokens") if row["stream"] else (bars.confident_end, "the whole answer")
        said.append(f"Confidence {row['confidence']:.3f} by {of}: the answer stands from {bar:.3f} on.")
    if row["novelty"] is not None:
        unusual = ": unlike all that the router was trained on" if row["novelty"] > UNUSUAL else ""
        said.append(f"Novelty {row['novelty']:.2f}, where 0 is usual and 1 is of unknown words alone{unusual}.")
    return said


def _of(facts: _Facts, number: str) -> str:
    value = facts.row[number]
    return "unknown" if value is None else f"{value:.1%}"


def _without(view: RequestView, word: str) -> RequestView:
    messages = tuple(
        (role, " ".join(each for each in text.split() if each != word) if role == "user" else text)
        for role, text in view.messages
    )
    return replace(view, messages=messages)


def _logit(p: float) -> float:
    bounded = min(max(p, EDGE), 1.0 - EDGE)
    return math.log(bounded / (1.0 - bounded))
