"""The command line as a shell runs it."""

import sys

import pytest

from stillroom import cli


@pytest.fixture
def stillroom(monkeypatch, capsys):
    """Runs the entry point; gives exit status, output and errors."""

    def run_main(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stillroom", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run_main
