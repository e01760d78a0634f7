"""The command line as a shell runs it."""

import sys

import pytest

from ledger.store import open_store, sqlite_url
from stillroom import cli


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of a Stillroom that has no settings file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def ledger(home):
    """Its ledger."""
    store = open_store(sqlite_url(home))
    yield store
    store.close()


@pytest.fixture
def run(home, stillroom):
    """Runs the entry point over `home`."""
    return stillroom


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
