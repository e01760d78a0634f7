"""Which route a request takes, and why: hard rules, then the score, then the student's own confidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from router.features import RequestView
from router.model import RouterModel
from router.signals import TokenLogprob

__all__ = ("Capabilities", "Decision", "decide", "escalate", "supported")

BYTES_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Decision:
    """A route, its reason, P(agreement | request) if asked for, and the probability of having chosen so."""

    route: Literal["student", "teacher"]
    reason: str
    score: float | None
    propensity: float


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the served student can take. `context_tokens` bounds prompt and answer together."""

    context_tokens: int
    tools: bool = False
    images: bool = False


def decide(view: RequestView, model: RouterModel | None, capabilities: Capabilities) -> Decision:
    """Route of a request before the student has said anything."""
    if model is None:
        return Decision("teacher", "no_release", None, 1.0)
    if not supported(view, capabilities):
        return Decision("teacher", "unsupported", None, 1.0)
    score = model.score(view)
    if model.thresholds.feasible and score >= model.thresholds.hard:
        return Decision("student", "confident", score, 1.0)
    return Decision("teacher", "hard", score, 1.0)


def escalate(model: RouterModel, score: float, tokens: Sequence[TokenLogprob]) -> tuple[bool, float]:
    """Whether to abandon the student's attempt for the teacher, and the confidence that says so."""
    confidence = model.confidence(score, tokens)
    answered = model.thresholds.feasible and confidence >= model.thresholds.confident
    return not answered, confidence


def supported(view: RequestView, capabilities: Capabilities) -> bool:
    """Whether a student with these capabilities can take the request at all."""
    return (
        view.n == 1
        and not view.unserved
        and (capabilities.images or not view.has_images)
        and (capabilities.tools or not view.has_tools)
        and _prompt_tokens(view) + (view.max_tokens or 1) <= capabilities.context_tokens
    )


def _prompt_tokens(view: RequestView) -> int:
    # Bytes, not characters: the same for ASCII, and a CJK character of three bytes is about one token.
    size = sum(len(text.encode("utf-8", "surrogatepass")) for _, text in view.messages)
    return -(-size // BYTES_PER_TOKEN)
