"""Train in several processes of this machine: ``python -m distill.torchrun JOB_DIR PROCESSES``.

PyTorch's torchrun starts each as a ``distill.train``. The exit status is that of the one that failed first. One that
is killed ends the others; started again, all go on from the newest checkpoint.
"""

import os
import signal
import sys
from collections.abc import Sequence

__all__ = ("arguments", "main", "status_of")


def arguments(job: str, processes: str) -> list[str]:
    """torchrun's command line."""
    return [
        "--standalone",
        *("--nproc-per-node", processes),
        # whoever started this counts restarts, and tells of them
        *("--max-restarts", "0"),
        *("--module", "distill.train", job),
    ]


def status_of(exits: Sequence[int]) -> int:
    """The status of the failure that the others come of: one that was killed, else one that torchrun did not stop."""
    statuses = [128 - code if code < 0 else code for code in exits]
    stopped = 128 + signal.SIGTERM
    return max((status for status in statuses if status != stopped), default=stopped)


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
        return status_of([failure.exitcode for failure in error.failures.values()])
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
