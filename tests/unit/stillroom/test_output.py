"""A log that cannot be written does not fail whoever writes it."""

import io

import structlog

from stillroom.output import unfailing


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_line_that_the_disk_refuses_raises_nothing():
    logger = structlog.PrintLogger(unfailing(FullDisk()))
    logger.msg("spool_write_failed")


def test_a_line_arrives_where_it_can_be_written():
    written = io.StringIO()
    structlog.PrintLogger(unfailing(written)).msg("ready")
    assert written.getvalue() == "ready\n"
