"""The ``[router]`` table of the settings."""

import msgspec

__all__ = ("RouterSettings",)


class RouterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much quality is asked for, with which confidence, and how the router may learn."""

    enabled: bool = True
    """False sends every ``auto`` request to the teacher."""
    agreement_target: float = 0.95
    """Share of answers that are to agree with the teacher's; a teacher's answer agrees with itself."""
    confidence: float = 0.95
    """The target is held with this confidence on held-out requests."""
    explore_share: float = 0.02
    """Share of confident requests that the teacher answers too, in the background: rather doubtful and new ones."""
    shadow_share: float = 0.02
    """Share of the requests kept from the student that it answers too, in the background."""
    canary_explore_share: float = 0.25
    """Share of the answers of a release under trial that the teacher answers too, each as likely as the others."""
    max_teacher_share: float | None = None
    """Ceiling of the teacher's share of the ``auto`` requests; those it adds least to are kept from it."""
    max_teacher_spend_per_day: float | None = None
    """Ceiling of what the teacher costs in a day (UTC), in the unit of the prices; spread over the day."""
    drift_alarms_per_month: float = 0.1
    """False alarms of drift that are expected in 30 days at most, of all kinds together; 0 watches for none."""
    hold_tokens: int = 8
    """Tokens of the student's stream that are held back while its confidence is read."""
    comparator: str = "auto"
    """Whether two answers agree: ``exact``, ``json``, ``numeric``, ``tools``, ``embedding``, ``judge``,
    ``likelihood``, or ``auto`` to infer it from the request."""
    comparators: dict[str, str] = {}
    """Another comparator for the requests of a tag, or of a model name that clients send."""
    similarity_floor: float = 0.85
    """``embedding``: answers of this cosine similarity or more agree."""
    likelihood_floor: float = -0.7
    """``likelihood``: agreement is a mean log-probability per token of the teacher's answer of this or more, in nats.
    At -0.7 the student gives each token, in the geometric mean, a probability of one half."""
    judge_calls_per_hour: int = 100
    """Calls of the teacher as judge in any hour, two for each label; 0 for none."""
