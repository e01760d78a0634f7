"""The ``[distill]`` table of the settings."""

from typing import Literal

import msgspec

from distill.loss_settings import Divergence, DivergenceName, LossSettings, Tail

__all__ = ("DistillSettings", "TrainingSettings")


class TrainingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a student is trained. ``distill/train.py`` has the meaning of each in full."""

    layers: tuple[int, ...] | None = None
    """Keep only these decoder layers of ``student.weights``; unset keeps all."""
    train_layers: int | None = None
    """Train only the uppermost so many decoder layers; unset trains all."""
    epochs: int = 3
    """Passes over the dataset."""
    continued_epochs: int = 2
    """Epochs where the champion is trained on, instead of the base model."""
    batch_size: int = 32
    """Examples per step."""
    learning_rate: float = 3e-4
    """Peak of the learning rate."""
    warmup_ratio: float = 0.05
    """Share of the steps in which the learning rate rises to its peak."""
    weight_decay: float = 0.0
    """Decay of AdamW."""
    alpha: float = 0.5
    """Weight of the soft targets against the hard label."""
    temperature: float = 1.0
    """Softens the teacher's distribution and the student's."""
    tail: Tail = "renormalise"
    """What becomes of the teacher's probability outside its top tokens: one further class, spread over them, or
    nothing, the student's being left out as well."""
    divergence: DivergenceName = "forward_kl"
    """How the student is compared with the teacher. The two reverse ones make it keep to likely answers."""
    beta: float = 0.5
    """Of ``jsd``: from forward (0) to reverse (1). Of the skewed: each side's share in what it is compared with."""
    lora_rank: int | None = None
    """Train a LoRA adapter of this rank; unset trains the weights."""
    freeze_embeddings: bool = True
    """Leave the token embeddings as they are."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the computation; ``auto`` is bfloat16 where the hardware has it."""
    max_length: int = 1024
    """Longer examples are left out, in tokens."""
    save_steps: int = 100
    """Steps between two checkpoints."""
    threads: int = 2
    """CPU threads."""
    seed: int = 0
    """Of the shuffling and the dropout."""

    def __post_init__(self) -> None:
        """Refuse a loss that means nothing, as `ValueError`."""
        if not 0.0 <= self.beta <= 1.0:
            return  # said with the other ranges, which name the variable
        LossSettings(self.alpha, self.temperature, self.tail, Divergence(self.divergence, self.beta))


class DistillSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a job takes, how it trains, and what lets its release go live."""

    approval: Literal["auto", "manual"] = "manual"
    """``manual``: a release that passed its gate waits for a person."""
    holdout_share: float = 0.25
    """Share of the conversations that are kept from training, to evaluate and calibrate on."""
    min_examples: int = 100
    """A job with fewer ends as failed."""
    max_examples: int = 100_000
    """The newest so many are taken."""
    max_share_per_key: float = 1.0
    """Largest share of a dataset that may come from one API key."""
    start_from: Literal["champion", "base"] = "champion"
    """The weights that training begins from: those of the live release, or ``student.weights``."""
    training: TrainingSettings = TrainingSettings()
    """How the student is trained."""
    min_agreement: float = 0.5
    """The gate's floor for the candidate's own agreement with the teacher on held-out requests."""
    margin: float = 0.02
    """A candidate may agree, or take of the traffic, this much less than the champion and no more."""
    parity_tolerance: float = 0.02
    """Largest difference of a served log-probability from the trained model's, in nats."""
