"""Which route a request takes, and why: hard rules, then the score, then the student's own confidence.

The router decides first, since a cascade pays the student's pass before it knows anything (arXiv:2605.06350): what is
hard goes to the teacher, what is sure to the student for good, and only what is between is tried and judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from router.features import RequestView
from router.model import RouterModel
from router.signals import TokenLogprob

__all__ = ("Capabilities", "Decision", "decide", "escalate", "supported", "unsupported_reason")

BYTES_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Decision:
    """A route, its reason, the score if asked for, and the probability of having chosen so."""

    route: Literal["student", "teacher"]
    reason: str
    score: float | None
    propensity: float
    novelty: float | None = None
    """How unlike its training requests the router found it, 0 to 1."""
    is_provisional: bool = False
    """The student's answer stands only if its own confidence is high enough."""


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
    found, bars = model.assess(view), model.thresholds
    if bars.feasible and found.score >= bars.hard:
        provisional = found.score < bars.sure
        return Decision("student", "confident", found.score, 1.0, found.novelty, provisional)
    return Decision("teacher", "hard", found.score, 1.0, found.novelty)


def escalate(
    model: RouterModel, score: float, tokens: Sequence[TokenLogprob], whole: bool = False, cut_off: bool = False
) -> tuple[bool, float]:
    """Whether to abandon the student's attempt for the teacher, and the confidence that says so.

    `tokens` are the first ones of a stream that is held, or all of a `whole` answer, which may have been `cut_off` at
    its length limit.
    """
    confidence, bars = model.confidence(score, tokens, whole, cut_off), model.thresholds
    bar = bars.confident_end if whole else bars.confident
    return not (bars.feasible and confidence >= bar), confidence


def supported(view: RequestView, capabilities: Capabilities) -> bool:
    """Whether a student with these capabilities can take the request at all."""
    return unsupported_reason(view, capabilities) is None


def unsupported_reason(view: RequestView, capabilities: Capabilities) -> str | None:
    """What a student with these capabilities cannot do of the request, to follow "the request"; None if nothing."""
    if view.n != 1:
        return f"asks for {view.n} answers at once, and the student gives one"
    if view.unserved:
        return "asks for something that no student is served with (sound, or another of the provider's own features)"
    if view.has_images and not capabilities.images:
        return "holds parts that are not text (images, sound or files), which the student cannot read"
    if view.has_tools and not capabilities.tools:
        return "offers tools or has results of them, which the student is not served with"
    needed = _prompt_tokens(view) + (view.max_tokens or 1)
    if needed > capabilities.context_tokens:
        return f"may need {needed} tokens with its answer, and the student takes {capabilities.context_tokens}"
    return None


def _prompt_tokens(view: RequestView) -> int:
    # Bytes, not characters: the same for ASCII, and a CJK character of three bytes is about one token.
    size = sum(len(text.encode("utf-8", "surrogatepass")) for _, text in view.messages)
    return -(-size // BYTES_PER_TOKEN)
