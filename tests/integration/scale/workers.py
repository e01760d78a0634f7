"""``stillroom worker`` several times on one store, as processes that can be killed."""

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SETTINGS = {
    "STUDENT__DEVICE": "cpu",
    "DISTILL__MIN_EXAMPLES": "20",
    "DISTILL__TRAINING__EPOCHS": "400",
    "DISTILL__TRAINING__SAVE_STEPS": "10",
    "DISTILL__TRAINING__BATCH_SIZE": "16",
}
"""More training than a test waits for, of a job that finds anything to learn."""


@dataclass
class Workers:
    """The processes, in one folder as if it were shared by machines."""

    home: Path
    running: list[subprocess.Popen[bytes]]

    def failures(self) -> list[tuple[int, str]]:
        """Which worker ended which job as failed, as their logs have it."""
        found = []
        for number in range(len(self.running)):
            lines = self.log(number).read_text().splitlines()
            said = [json.loads(line) for line in lines if line.startswith("{")]
            found += [(number, line["job"]) for line in said if line["event"] == "job_failed"]
        return found

    def took_part(self) -> Counter[int]:
        return Counter(number for number, _ in self.failures())

    def holder(self, owner: str | None) -> subprocess.Popen[bytes]:
        """The process that a lease names."""
        (found,) = [each for each in self.running if owner is not None and owner.endswith(f":{each.pid}")]
        return found

    def log(self, number: int) -> Path:
        return self.home / f"worker{number}.log"


@contextlib.contextmanager
def workers(home: Path, store_url: str, weights: Path, count: int = 3) -> Iterator[Workers]:
    """So many, which end with the block."""
    variables = {"HOME": home, "STORE__URL": store_url, "STUDENT__WEIGHTS": weights, **SETTINGS}
    named = {f"STILLROOM_{name}": str(value) for name, value in variables.items()}
    started = Workers(home, [])
    try:
        for number in range(count):
            with started.log(number).open("wb") as output:
                command = [sys.executable, "-m", "stillroom.cli", "worker"]
                started.running.append(
                    subprocess.Popen(command, env=os.environ | named, stdout=output, stderr=output, cwd=home)
                )
        yield started
    finally:
        for process in started.running:
            process.kill()
            process.wait()
