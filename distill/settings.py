"""The ``[distill]`` table of the settings."""

from typing import Final, Literal, TypeAlias

import msgspec

from distill.canary_settings import CanarySettings
from distill.data.settings import DataSettings
from distill.gate_settings import GateSettings
from distill.loss_settings import Divergence, DivergenceName, LossSettings, Tail
from distill.trigger_settings import TriggerSettings

__all__ = ("ABOVE_ZERO", "TRAINING_RANGES", "DistillSettings", "Engine", "Sharding", "TrainingSettings")

Engine: TypeAlias = Literal["local", "torchrun", "ray"]
Sharding: TypeAlias = Literal["none", "fsdp"]

TRAINING_RANGES: Final[dict[str, tuple[float, float]]] = {
    "train_layers": (1, 1e6),
    "epochs": (1, 1e6),
    "continued_epochs": (1, 1e6),
    "batch_size": (1, 1e6),
    "accumulation_steps": (1, 1e6),
    "learning_rate": (0, 1e12),
    "warmup_ratio": (0, 0.99),
    "weight_decay": (0, 1e12),
    "alpha": (0, 1),
    "temperature": (0, 1e12),
    "beta": (0, 1),
    "on_policy_share": (0, 1),
    "on_policy_gamma": (0, 1),
    "on_policy_early": (0, 1e3),
    "sample_tokens": (1, 1e6),
    "sample_temperature": (0, 1e12),
    "sample_refresh_steps": (1, 1e9),
    "sample_gpu_share": (0.01, 1),
    "lora_rank": (1, 1e6),
    "lora_alpha": (0, 1e12),
    "max_length": (2, 1e9),
    "validation_share": (0, 0.5),
    "patience": (1, 1e6),
    "min_delta": (0, 1e12),
    "save_steps": (1, 1e9),
    "threads": (1, 1e6),
}
"""Where a number of `TrainingSettings` may lie, in the settings and in ``train.json``."""
ABOVE_ZERO: Final = ("learning_rate", "temperature", "sample_temperature", "lora_alpha")
"""Those of them that may not be 0 itself."""
LEAST_TEMPERATURE: Final = 0.01
"""vLLM makes this of anything that is smaller and not 0."""


class TrainingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a student is trained; docs/training.md says more."""

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
    accumulation_steps: int = 1
    """Parts that a step's examples are taken in, one after the other: less memory, the same step."""
    batching: Literal["bucketed", "packed"] = "bucketed"
    """``bucketed``: rows of similar length, padded. ``packed``: a batch is one row without padding, each example
    attending to itself only; for GPUs."""
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
    teacher_weights: str | None = None
    """Folder of a local teacher, which is run in training. With the student's tokenizer its whole distribution takes
    the place of the logged top tokens; with another one it serves rows of which little was logged, or aligned."""
    on_policy_share: float = 0.0
    """Share of the steps in which the local teacher scores what the student itself answers to the prompts."""
    on_policy_gamma: float | None = None
    """With ``reverse_kl``: a sampled token also answers for what comes after it, each further token by this factor
    less (MiniLLM); unset compares token by token (GKD)."""
    on_policy_early: float = 0.0
    """What the first token of a sampled answer counts above 1; a later one this times the share of the answer's
    disagreement with the teacher that is still to come (IW-OPD; 0.5 there)."""
    sample_tokens: int = 128
    """Longest answer that the student samples in such a step."""
    sample_temperature: float = 1.0
    """Temperature it samples at."""
    sampler: Literal["local", "vllm"] = "local"
    """What draws the samples: transformers in the trainer itself, or a vLLM server of the student beside it."""
    sample_refresh_steps: int = 1
    """With ``vllm``: steps between two times that the server takes the student's newest weights. Must divide
    ``save_steps``."""
    sample_gpu_share: float = 0.3
    """With ``vllm`` on a GPU: the share of its memory that the server may take beside the trainer."""
    lora_rank: int | None = None
    """Train a LoRA adapter of this rank; unset trains the weights."""
    lora_alpha: float | None = None
    """The adapter is scaled by this over its rank; unset is twice the rank."""
    lora_targets: tuple[str, ...] | None = None
    """Names of the linear layers that get an adapter, as ``q_proj``; unset is all of them but the head."""
    lora_4bit: bool = False
    """Hold the weights below the adapter in four bits (QLoRA); needs CUDA and bitsandbytes."""
    freeze_embeddings: bool = True
    """Leave the token embeddings as they are."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: much less memory, about a third more time."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the computation; ``auto`` is bfloat16 where the hardware has it. Weights stay float32."""
    max_length: int = 1024
    """Longer examples are left out, in tokens."""
    validation_share: float = 0.0
    """Share of the training rows that is set aside: their loss is measured at each checkpoint, the weights of the
    lowest are the ones that are kept."""
    patience: int = 3
    """Training ends after so many validations in a row without a lower loss."""
    min_delta: float = 0.0
    """A validation loss counts as lower by more than this, in nats per token."""
    save_steps: int = 100
    """Steps between two checkpoints, and between two validations."""
    tensorboard: bool = False
    """Write TensorBoard's event files into the job's folder."""
    threads: int = 2
    """CPU threads."""
    seed: int = 0
    """Of the shuffling, the sampling and the dropout."""

    def __post_init__(self) -> None:
        """Refuse what means nothing, as `ValueError`."""
        if self.on_policy_share and not self.teacher_weights:
            raise ValueError("on_policy_share needs teacher_weights: a local teacher that scores what is sampled")
        if self.on_policy_share and self.batching == "packed":
            raise ValueError('on_policy_share needs batching = "bucketed"')
        if self.on_policy_early and not self.on_policy_share:
            raise ValueError("on_policy_early needs on_policy_share: it weighs the tokens of sampled answers")
        if self.on_policy_gamma is not None and not (self.on_policy_share and self.divergence == "reverse_kl"):
            raise ValueError('on_policy_gamma needs on_policy_share and divergence = "reverse_kl"')
        if self.samples_on_server and self.save_steps % max(1, self.sample_refresh_steps):
            raise ValueError(
                f"sample_refresh_steps = {self.sample_refresh_steps}: must divide save_steps ({self.save_steps}), so "
                "that a run that goes on from a checkpoint samples with the same weights"
            )
        if self.samples_on_server and self.sample_temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"sample_temperature = {self.sample_temperature}: vLLM takes {LEAST_TEMPERATURE} or more"
            )
        if self.batch_size % max(1, self.accumulation_steps):
            raise ValueError(f"batch_size = {self.batch_size}: not a multiple of accumulation_steps")
        if self.lora_4bit and self.lora_rank is None:
            raise ValueError("lora_4bit needs lora_rank: weights of four bits are not trained themselves")
        if 0.0 <= self.beta <= 1.0:  # else it is said with the other ranges, which name the variable
            _ = self.loss

    @property
    def samples_on_server(self) -> bool:
        """Whether a vLLM of the student draws the samples."""
        return self.sampler == "vllm" and self.on_policy_share > 0

    def divided_by(self, processes: int) -> None:
        """Raises `ValueError` where so many processes cannot share a step's examples equally, or one server."""
        if self.samples_on_server:
            raise ValueError('sampler = "vllm" needs distill.engine = "local": take sampler = "local" with several')
        parts = max(1, self.accumulation_steps) * max(1, processes)
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size = {self.batch_size}: not a multiple of accumulation_steps x processes, {parts}"
            )

    def sharded_by(self, sharding: Sharding, engine: Engine) -> None:
        """Raises `ValueError` where the weights cannot be divided so."""
        if sharding == "none":
            return
        if engine == "local":
            raise ValueError(f'sharding = "{sharding}" needs engine = "torchrun" or "ray": one process has it all')
        held = {
            "lora_rank": self.lora_rank,
            "train_layers": self.train_layers,
            "on_policy_share": self.on_policy_share,
        }
        if chosen := [name for name, value in held.items() if value]:
            raise ValueError(f'sharding = "{sharding}" trains all weights on given answers: unset {chosen[0]}')

    @property
    def loss(self) -> LossSettings:
        """How the student is compared with the teacher. Raises `ValueError` where that means nothing."""
        divergence = Divergence(self.divergence, self.beta)
        # a local teacher's distribution is whole: the tail is of rows that have nothing but their logged tokens
        tail = "bucket" if self.teacher_weights is not None and divergence.needs_tail else self.tail
        return LossSettings(self.alpha, self.temperature, tail, divergence)


class DistillSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a job takes, how it trains, and what lets its release go live."""

    engine: Engine = "local"
    """What runs the trainer: one process; ``torchrun``, several of this machine; ``ray``, several of a cluster."""
    processes: int = 2
    """With these two: how many share each step, one for each GPU. ``training.threads`` is of each."""
    sharding: Sharding = "none"
    """What each of them has of the weights: ``none``, all; ``fsdp``, its part, for students too large for one GPU.
    Needs CUDA, and neither ``lora_rank`` nor ``train_layers`` nor samples."""
    approval: Literal["auto", "manual"] = "manual"
    """``manual``: a release that passed its gate waits for a person."""
    holdout_share: float = 0.25
    """Share of the conversations that are kept from training, to evaluate and calibrate on."""
    min_examples: int = 100
    """A job with fewer ends as failed."""
    max_examples: int = 100_000
    """The most rows that are trained on; ``data.selection`` says which."""
    max_share_per_key: float = 1.0
    """Largest share of a dataset that may come from one API key."""
    data: DataSettings = DataSettings()
    """What else a dataset takes, and what is done to it."""
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
    artifacts: str | None = None
    """An fsspec URL as ``s3://bucket/releases`` that releases are copied to, for servers on other machines."""
    mlflow_uri: str | None = None
    """An MLflow server (``http://mlflow:5000``) or store that jobs are told to when they end; its user and password
    are MLflow's own variables (``MLFLOW_TRACKING_USERNAME``)."""
    keep_releases: int = 20
    """So many retired, rejected and rolled back releases keep their files, the newest; further ones where pinned."""
    gate: GateSettings = GateSettings()
    """The gate's further rules."""
    triggers: TriggerSettings = TriggerSettings()
    """When jobs start by themselves."""
    canary: CanarySettings = CanarySettings()
    """How a release is tried on live traffic."""

    def __post_init__(self) -> None:
        """Refuse processes without an equal part, and a secret: settings are a part of every release."""
        if self.engine != "local":
            self.training.divided_by(self.processes)
        self.training.sharded_by(self.sharding, self.engine)
        if self.mlflow_uri is not None and "@" in self.mlflow_uri:
            raise ValueError(
                "mlflow_uri holds a user or a password: give them as MLFLOW_TRACKING_USERNAME, _PASSWORD"
            )
