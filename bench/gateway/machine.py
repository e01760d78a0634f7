"""What the kernel says of processes and of this machine: CPU time, memory, open files, cores."""

import os
import platform
import time
from pathlib import Path
from typing import Any, Final

__all__ = ("cores", "cpu_seconds", "describe", "open_files", "rss_mb", "tree")

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 1024 / 1024
USER, SYSTEM, USER_OF_DEAD, SYSTEM_OF_DEAD, RSS = 11, 12, 13, 14, 21
"""Fields of ``/proc/PID/stat`` after the command's name (proc(5))."""


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents = {
        int(entry.name): int(stat[1])
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (stat := _stat(int(entry.name)))
    }
    found = [pid]
    for ancestor in found:
        found.extend(child for child, parent in parents.items() if parent == ancestor)
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time that these processes have used, with that of their children that are gone."""
    stats = [stat for pid in pids if (stat := _stat(pid))]
    used = (USER, SYSTEM, USER_OF_DEAD, SYSTEM_OF_DEAD)
    return sum(int(stat[field]) for stat in stats for field in used) * TICK_S


def rss_mb(pids: list[int]) -> float:
    """Their resident memory, MiB."""
    return sum(int(stat[RSS]) for pid in pids if (stat := _stat(pid))) * PAGE_MB


def open_files(pids: list[int]) -> int:
    """Their open file descriptors."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def cores() -> tuple[int, int]:
    """The gateway's core, and the one of the mock and the load generator; the same one where there is no other."""
    available = sorted(os.sched_getaffinity(0))
    return available[-1], available[0]


def describe() -> dict[str, Any]:
    """This machine, for the report."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": os.getloadavg()[0],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
