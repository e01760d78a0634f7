"""What is known of rows is on disk: memory does not grow with a ledger. `bench/dataset.py` measures a whole build."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from distill.data.index import RowIndex
from tests.unit.distill.data.rows import row

ROOT = Path(__file__).parents[4]
FEW, MANY = 5_000, 40_000
KB_A_ROW = 0.2
"""What more rows may take each: half of what they take where all that is known of them is in memory."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak of its memory")
def test_the_choice_among_more_rows_takes_no_more_memory():
    words = [sys.executable, "-m", "tests.unit.distill.data.peak", str(FEW), str(MANY)]
    few, many = map(int, subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split())
    assert many - few < KB_A_ROW * (MANY - FEW)


def test_no_room_for_the_index_is_an_error_that_says_where_room_is_missing():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match=r"TMPDIR says\): .*disk"), RowIndex() as index:
        index.execute("pragma temp.cache_size = -200")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            for _ in range(10_000):
                index.add(row("where is it?"), False, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
