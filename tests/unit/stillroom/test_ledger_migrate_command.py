"""``ledger migrate`` as a shell sees it."""

import json

import pytest

from ledger import keys
from ledger.requests import count, insert_records
from ledger.store import open_store
from tests.unit.ledger.rows import row


@pytest.fixture
def url(postgres):
    with postgres.database() as url:
        yield url


def test_the_ledger_is_moved_and_each_table_told_of(run, ledger, url):
    insert_records(ledger, [row(f"r{number}") for number in range(30)])
    status, out, err = run("ledger", "migrate", "--to", url)
    assert (status, out.split()[:4]) == (0, ["table", "rows", "mended", "hash"])
    assert "30/30" in err
    moved = open_store(url)
    assert count(moved) == 30
    moved.close()


def test_programs_get_json(run, ledger, url):
    insert_records(ledger, [row("a")])
    found = {each["table"]: each for each in json.loads(run("ledger", "migrate", "--to", url, "--json")[1])}
    assert (found["requests"]["rows"], found["requests"]["mended"]) == (1, 0)
    assert len(found["requests"]["hash"]) == 32


def test_a_database_in_use_is_refused_in_one_line(run, ledger, url):
    theirs = open_store(url)
    keys.create(theirs, "theirs", ["read"], "ben")
    theirs.close()
    status, _, err = run("ledger", "migrate", "--to", url)
    assert (status, len(err.strip().splitlines())) == (1, 1)
    assert "in use" in err


@pytest.mark.parametrize(
    ("to", "status", "says"),
    [
        pytest.param("nonsense", 2, "parse", id="no URL"),
        pytest.param("postgresql://nobody@127.0.0.1:1/x", 1, "refused", id="nobody there"),
    ],
)
def test_where_it_cannot_go_is_said_without_a_traceback(run, ledger, to, status, says):
    found, _, err = run("ledger", "migrate", "--to", to)
    assert found == status
    assert says in err


def test_the_same_store_is_no_place_to_go(run, home, ledger):
    status, _, err = run("ledger", "migrate", "--to", f"sqlite:///{home / 'ledger.sqlite'}")
    assert status == 2
    assert "already" in err
