"""Train in several processes of this machine: ``python -m distill.torchrun JOB_DIR PROCESSES``.

PyTorch's torchrun starts each as a ``distill.train``. The exit status is that of the one that failed first. One that
is killed ends the others; started again, all go on from the newest checkpoint.
"""

import os
import sys
from collections.abc import Sequence

__all__ = ("arguments", "main")


def arguments(job: str, processes: str) -> list[str]:
    """torchrun's command line."""
    return [
        "--standalone",
        *("--nproc-per-node", processes),
        # whoever started this counts restarts, and tells of them
        *("--max-restarts", "0"),
        *("--module", "distill.train", job),
    ]


def main(words: Sequence[str]) -> int:
    """Run it to its end."""
    # what it says of failures would hide the trainer's own line
    os.environ["LOGLEVEL"] = "CRITICAL"
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.run(run.parse_args(arguments(*words)))
    except ChildFailedError as error:
        statuses = [failure.exitcode for failure in error.failures.values()]
        # the others fail because one was killed
        status = min(statuses) if min(statuses) < 0 else error.get_first_failure()[1].exitcode
        return 128 - status if status < 0 else status
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
