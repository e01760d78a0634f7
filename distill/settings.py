"""The ``[distill]`` table of the settings."""

from typing import Literal

import msgspec

__all__ = ("DistillSettings", "TrainingSettings")


class TrainingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a student is trained. ``distill/train.py`` has the meaning of each in full."""

    layers: tuple[int, ...] | None = None
    """Keep only these decoder layers of ``student.weights``; unset keeps all."""
    train_layers: int | None = None
    """Train only the uppermost so many decoder layers; unset trains all."""
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    alpha: float = 0.5
    """Weight of the soft targets against the hard label."""
    temperature: float = 1.0
    tail: Literal["bucket", "renormalise"] = "renormalise"
    lora_rank: int | None = None
    freeze_embeddings: bool = True
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_length: int = 1024
    save_steps: int = 100
    threads: int = 2
    seed: int = 0


class DistillSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a job takes, how it trains, and what lets its release go live."""

    approval: Literal["auto", "manual"] = "manual"
    """``manual``: a release that passed its gate waits for a person."""
    holdout_share: float = 0.25
    min_examples: int = 100
    max_examples: int = 100_000
    max_share_per_key: float = 1.0
    """Largest share of a dataset that may come from one API key."""
    start_from: Literal["champion", "base"] = "champion"
    training: TrainingSettings = TrainingSettings()
    min_agreement: float = 0.5
    """The gate's floor for the candidate's own agreement with the teacher on held-out requests."""
    margin: float = 0.01
    """A candidate may be this much worse than the champion, at the stated confidence, and no more."""
    parity_tolerance: float = 0.02
    """Largest difference of a served log-probability from the trained model's, in nats."""
