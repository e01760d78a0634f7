"""The processes that share one training: which of them this is, and what they agree on.

torchrun and Ray Train say it in variables. Without those this is the first process of one, and nothing is exchanged.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

__all__ = (
    "RESTARTS",
    "STARTS",
    "agreed",
    "first_alone",
    "is_first",
    "join",
    "rank",
    "summed",
    "wait_for_all",
    "whole",
    "world",
)

RESTARTS: Final = 3
"""Of a training that a signal ended: the machine was short of memory, or somebody's script was."""
STARTS: Final = "ray/starts"
"""In the job's folder: as many bytes as Ray has started all its workers."""


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many share the training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return rank() == 0


def join() -> Callable[[], None]:
    """Meet the others, if there are any and whoever started this process has not done so: Gloo, and NCCL on GPUs.

    Returns how to part from them again: a process that ends while Gloo's threads run may be aborted.
    """
    import torch

    if world() == 1 or torch.distributed.is_initialized():
        return lambda: None
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return torch.distributed.destroy_process_group


def wait_for_all() -> None:
    """Go on when all have come here."""
    if world() > 1:
        import torch

        torch.distributed.barrier()


@contextmanager
def first_alone() -> Generator[None]:
    """The first process does what is inside before the others do."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def summed(here: "Tensor") -> "Tensor":
    """The sum of what each of them has, on the CPU."""
    if world() > 1:
        import torch

        torch.distributed.all_reduce(here)
    return here


def whole(tensor: "Tensor") -> "Tensor":
    """All of a tensor that the processes may have in parts; all must call it."""
    if world() == 1:
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def agreed(here: bool) -> bool:
    """Whether it is so in any of them; the same answer in all."""
    if world() == 1:
        return here
    import torch

    return bool(summed(torch.tensor([int(here)])))
