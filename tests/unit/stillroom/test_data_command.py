"""``distill data`` as a shell sees it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ledger import datasets, jobs
from ledger.requests import insert_records
from ledger.store import open_store, sqlite_url
from stillroom.cli import cli
from tests.unit.distill.conftest import save_tokenizer
from tests.unit.distill.data.rows import record


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A ledger of 60 requests of 2 keys, 10 of them tagged, and a student to be."""
    weights = tmp_path / "weights"
    weights.mkdir()
    save_tokenizer(weights)
    (weights / "config.json").write_text('{"model_type": "llama"}')
    store = open_store(sqlite_url(tmp_path))
    insert_records(
        store,
        [
            record(f"{'why' * n} {n}", f"lost {n}", key_id=f"key_{n % 2}", tags=["wanted"] if n < 10 else [])
            for n in range(60)
        ],
    )
    store.close()
    return tmp_path


def run(home: Path, *words: str, command: str = "data", **settings: Any) -> Result:
    environment = {"STILLROOM_HOME": str(home), "STILLROOM_STUDENT__WEIGHTS": str(home / "weights")}
    environment |= {"STILLROOM_DISTILL__MIN_EXAMPLES": "1"} | settings
    return CliRunner().invoke(cli, ["distill", command, *words], env=environment)


def figures(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_dry_run_counts_and_writes_nothing(home: Path):
    before = sorted(home.rglob("*"))
    found = figures(run(home, "--dry-run", "--json"))
    assert found["train"] + found["held_out"] + sum(found["dropped"].values()) == 60
    after = [path for path in sorted(home.rglob("*")) if not path.name.startswith("ledger.sqlite")]
    assert after == [path for path in before if not path.name.startswith("ledger.sqlite")]


def test_a_dataset_is_written_and_registered_with_what_it_was_asked_for(home: Path):
    found = figures(run(home, "--json", "--output", str(home / "mine"), "--key", "key_1"))
    assert sorted(path.name for path in (home / "mine").iterdir()) == [
        "held_out.jsonl",
        "manifest.json",
        "train.parquet",
    ]
    assert set(found["keys"]) == {"key_1"}
    assert found["query"]["data"]["keys"] == ["key_1"]
    store = open_store(sqlite_url(home))
    registered = datasets.get(store, found["id"])
    store.close()
    assert registered is not None
    assert registered.content_hash == found["content_hash"]
    assert registered.folder == str(home / "mine")


def test_filters_narrow_what_is_taken(home: Path):
    found = figures(run(home, "--dry-run", "--json", "--tag", "wanted"))
    assert found["train"] + found["held_out"] + sum(found["dropped"].values()) == 10
    assert figures(run(home, "--dry-run", "--json", "--until", "1970-01-01T00:00:00"))["train"] == 0
    assert figures(run(home, "--dry-run", "--json", "--reason", "hard"))["train"] == 0
    assert figures(run(home, "--dry-run", "--json", "--max-examples", "3"))["train"] == 3


def test_a_table_says_what_was_taken_and_why_the_rest_was_not(home: Path):
    result = run(home, "--max-examples", "3")
    assert result.exit_code == 0, result.output
    assert "to train on" in result.stdout
    assert "left out: beyond max examples" in result.stdout
    assert len(list((home / "datasets").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        pytest.param(["--since", "yesterday"], "'yesterday' is no time", id="time"),
        pytest.param(["--min-feedback", "2"], "2.0 is not in the range", id="feedback"),
        pytest.param(
            ["--tag", "b"], "'b' is not among a, which distill.data.tags takes", id="tag beyond the settings"
        ),
        pytest.param(["--output", "{home}/weights"], "is not empty", id="folder in use"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(home: Path, words: list[str], why: str):
    result = run(home, *(word.format(home=home) for word in words), STILLROOM_DISTILL__DATA__TAGS='["a"]')
    assert result.exit_code == 2
    assert why in " ".join(result.output.replace("│", " ").split())


def test_a_job_takes_the_same_filters_keeps_them_and_trains_on_what_they_leave(home: Path):
    refused = run(home, "--tag", "b", command="run", STILLROOM_DISTILL__DATA__TAGS='["a"]')
    assert (refused.exit_code, "is not among a" in refused.output) == (2, True)
    words = ("--tag", "unheard of", "--since", "30d", "--max-examples", "9")
    assert "0 teacher answers can be trained on" in str(run(home, *words, command="run").exception)
    store = open_store(sqlite_url(home))
    (job,) = jobs.list_jobs(store)
    store.close()
    assert job.settings == {"tags": ["unheard of"], "since": "30d", "max_examples": 9}


def test_too_few_rows_are_a_failure_with_the_reasons(home: Path):
    result = run(home, "--tag", "unheard of")
    assert "0 teacher answers can be trained on" in str(result.exception)
