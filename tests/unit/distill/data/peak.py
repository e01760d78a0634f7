"""``python -m tests.unit.distill.data.peak 5000 40000``: peak memory, in KB, after a choice among so many rows each.

For `test_index.py`: in a process of its own nothing else's memory counts. What has a fixed size is made small here,
so that the first rows fill it.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from distill.data import near
from distill.data.choice import choose, held_out
from distill.data.gathering import Gathering
from distill.data.index import RowIndex
from distill.data.near import Sketches
from distill.data.rows import Row
from distill.data.settings import DataSettings
from distill.settings import DistillSettings

near.PART, near.READ_AT_ONCE = 1_000, 500
CACHES = ("pragma temp.cache_size = -200", "pragma main.cache_size = -200")
SETTINGS = DistillSettings(
    holdout_share=0.25,
    max_examples=1_000,
    max_share_per_key=0.5,
    data=DataSettings(selection="informative", replay_share=0.3, min_keys_per_trigger=1),
)


def rows(count: int) -> Iterator[Row]:
    for n in range(count):
        content = f"{n // 2 * 0x9E3779B97F4A7C15 % 2**64:x} {n % 2}"
        more = {"logprobs": [{"logprob": -(n % 5)}], "created_at": n, "confidence": n % 10 / 10}
        yield Row(
            f"req_{n:012}",
            f"key_{n % 3}",
            "hard",
            1.0,
            [{"role": "user", "content": content}],
            {},
            f"label {n % 12}",
            **more,
        )


def peak(count: int) -> int:
    with RowIndex() as index, Sketches([]) as sketches:
        for statement in CACHES:
            index.execute(statement)
        gathering = Gathering(SETTINGS, 1.0, lambda _messages: True, index, sketches)
        gathering.take_all(rows(count), lambda *_: None)
        gathering.choose_distinct(lambda _wanted: iter(()))
        chosen = choose(index, SETTINGS, count // 2, gathering.dropped)
        assert sum(1 for _ in held_out(index)) == chosen.held_out > count // 5
    # not getrusage's, which begins with what the parent had
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


if __name__ == "__main__":
    sys.stdout.write(" ".join(str(peak(int(count))) for count in sys.argv[1:]))
