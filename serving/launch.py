"""Runs a command as long as its starter lives: ``python -I launch.py PARENT_PID command ...``.

vLLM is several processes, and none of them notices that the gateway which started it was killed with SIGKILL.
This one stands between: it leads their process group, and when its parent is gone, it kills the group. It
watches by ``getppid`` rather than by ``PR_SET_PDEATHSIG``, which fires when the starting *thread* ends; the
command itself does get the death signal, as its starter is this process's only thread.

It imports the standard library only and is started by path, so none of our packages is loaded.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1


def die_with_launcher() -> None:
    """In the forked child: SIGKILL when the launcher dies (Linux; elsewhere the group's owner cleans up)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def kill_group() -> None:
    """SIGKILL to every process of our group, which ends this one too."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Start ``arguments[1:]``, pass SIGTERM and SIGHUP on to it, return its exit status (128 + signal if killed)."""
    parent = int(arguments[0])
    child = subprocess.Popen(arguments[1:], preexec_fn=die_with_launcher)  # noqa: PLW1509 (one thread)

    def forward(signum: int, _frame: FrameType | None) -> None:
        child.send_signal(signum)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGHUP, forward)
    while child.poll() is None:
        if os.getppid() != parent:
            kill_group()
        time.sleep(POLL_SECONDS)
    status = child.returncode
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
