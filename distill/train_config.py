"""``train.json``, which says what a training process does, and ``result.json``, which says what it did."""

from pathlib import Path

import msgspec

from distill.settings import ABOVE_ZERO, TRAINING_RANGES, Engine, Sharding, TrainingSettings

__all__ = ("ConfigError", "TrainConfig", "TrainResult", "read_config")


class ConfigError(Exception):
    """The configuration names what does not exist or cannot be."""


class TrainConfig(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``train.json``: the settings of training, and where things are.

    ``weights`` and ``output`` are model folders, ``examples`` a file of `read_examples`; ``engine`` starts so many
    ``processes``. The job that writes it has put the setting ``continued_epochs`` in the place of ``epochs`` where it
    applies.
    """

    weights: str
    examples: str
    output: str
    engine: Engine = "local"
    processes: int = 1
    sharding: Sharding = "none"

    def __post_init__(self) -> None:
        """Refuse a number out of its range, and what means nothing, as `ValueError`."""
        for name, (low, high) in TRAINING_RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not low <= value <= high or (value == 0 and name in ABOVE_ZERO):
                raise ValueError(
                    f"{name} = {value}: must be {'above' if name in ABOVE_ZERO else 'from'} {low:g} to {high:g}"
                )
        super().__post_init__()
        if self.engine != "local":
            self.divided_by(self.processes)
        self.sharded_by(self.sharding, self.engine)


class TrainResult(msgspec.Struct):
    """``result.json``, over all runs of the job: ``examples`` rows were trained on, ``too_long`` left out.

    ``validation_loss`` is that of the weights that were kept, in nats per token; ``stopped_early`` where the losses
    after it were no lower.
    """

    seconds: float
    tokens: int
    tokens_per_second: float
    examples: int
    too_long: int
    final_loss: float
    steps: int
    validation_loss: float | None = None
    stopped_early: bool = False


def read_config(job: Path) -> TrainConfig:
    """Read ``train.json``.

    Raises:
        ConfigError: It is missing or ill-formed, or names a file that is not there.
    """
    try:
        config = msgspec.json.decode((job / "train.json").read_bytes(), type=TrainConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{job / 'train.json'}: {error}") from error
    needed = [Path(config.weights, "config.json"), Path(config.examples)]
    if config.teacher_weights is not None:
        needed.append(Path(config.teacher_weights, "config.json"))
    for path in needed:
        if not path.is_file():
            raise ConfigError(f"{path} is not a file")
    return config
