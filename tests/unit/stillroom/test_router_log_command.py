"""``router evaluate`` on the ledger and ``router explain``, as a shell sees them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rich_click as click
from click.testing import CliRunner, Result

from ledger import labels, releases
from ledger.artifacts import seal
from ledger.labels import Label
from ledger.requests import insert_records
from ledger.store import Store, now_ms, open_store, sqlite_url
from router.calibration import Prices
from router.features import RequestView
from router.model import RouterModel
from router.signals import TokenLogprob
from router.train import LabelledRequest, train_router
from stillroom.commands.common import CommandFailed
from stillroom.commands.router_log import evaluate_log, explain_command
from tests.unit.ledger.rows import release, row

SETTINGS = """
home = "{home}"

[teacher.price]
input = 2.0
output = 8.0

[student.price]
input = 0.1
output = 0.4
"""


@click.group()
@click.option("--config", type=click.Path(path_type=Path))
@click.pass_context
def commands(context: click.Context, config: Path | None) -> None:
    """What the real group hooks in."""
    context.obj = config


@commands.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--plot", type=click.Path(path_type=Path))
@click.pass_context
def evaluate(context: click.Context, as_json: bool, plot: Path | None) -> None:
    """As without a table."""
    evaluate_log(context, as_json, 30.0, plot)


commands.add_command(explain_command)


@pytest.fixture(scope="module")
def router() -> RouterModel:
    """Learned that the student cannot do what says "integral"."""
    rng = np.random.default_rng(0)
    rows: list[LabelledRequest] = []
    for _ in range(300):
        hard = bool(rng.random() < 0.3)
        p = 0.5 if hard else 0.97
        said = tuple(TokenLogprob(float(np.log(p)), (float(np.log(p)), float(np.log(1 - p)))) for _ in range(4))
        text = f"please {'integral' if hard else 'parcel'} w{int(rng.integers(40))}"
        rows.append(LabelledRequest(RequestView((("user", text),)), said, not hard))
    trained = train_router(rows, 0.9, 0.1, Prices(1.0, 20.0))
    bars = replace(trained.thresholds, hard=0.5, sure=2.0, confident=0.8, confident_end=0.8, feasible=True)
    return replace(trained, thresholds=bars)


@pytest.fixture
def world(tmp_path: Path, router: RouterModel) -> tuple[Path, Store]:
    """A settings file and the ledger it names, with a live release and two hundred requests."""
    config = tmp_path / "stillroom.toml"
    config.write_text(SETTINGS.format(home=tmp_path))
    store = open_store(sqlite_url(tmp_path))
    folder = tmp_path / "releases" / "rel-1"
    router.save(folder / "router")
    live = releases.Release("rel-1", "candidate", now_ms(), None, None, None, str(folder), seal(folder, {}), {})
    releases.add(store, live)
    releases.promote(store, "rel-1", "test")
    rng, usual = np.random.default_rng(1), {"release_id": "rel-1", "prompt_tokens": 100, "completion_tokens": 10}
    explored: list[Label] = []
    for n in range(200):
        easy, now = n % 2 == 0, now_ms()
        route, reason, score = ("student", "confident", 0.97) if easy else ("teacher", "hard", 0.1)
        confidence = 0.95 if easy else None
        values = {"route": route, "reason": reason, "score": score, "confidence": confidence, "novelty": 0.1}
        records = [row(f"r{n}", created_at=now, **values, **usual)]
        if easy and rng.random() < 0.5:
            records.append(row(f"r{n}-explore", created_at=now, reason="explore", propensity=0.5))
            explored.append(
                Label(
                    request_id=f"r{n}",
                    source="explore",
                    created_at=now,
                    release_id="rel-1",
                    comparator="exact",
                    agreement=float(rng.random() < 0.95),
                    propensity=0.5,
                )
            )
        insert_records(store, records)
    labels.add(store, explored)
    return config, store


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(commands, ["--config", str(config), *arguments], terminal_width=200)


def test_the_log_is_evaluated_as_json(world: tuple[Path, Store]):
    found = json.loads(run(world[0], "evaluate", "--json").output)
    assert (found["release"], found["requests"]) == ("rel-1", 200)
    assert found["labelled"] == found["asked"] > 30
    assert len(found["curve"]) == 101
    now = found["in_force"]["dr"]
    assert now["teacher_share"] == pytest.approx(0.5)
    assert 0.9 < now["low"] < now["agreement"] < now["high"] <= 1.0
    assert now["saving"] > 0.4
    assert found["score_calibration_error"] < 0.1


def test_the_log_is_evaluated_for_people_and_drawn(world: tuple[Path, Store], tmp_path: Path):
    picture = tmp_path / "curve.png"
    result = run(world[0], "evaluate", "--plot", str(picture))
    assert result.exit_code == 0
    for said in (
        "teacher share",
        "snips",
        "95 % interval",
        "200 requests of rel-1",
        "calibration error of the score",
    ):
        assert said in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_empty_log_is_said_to_be_in_a_line(tmp_path: Path):
    config = tmp_path / "stillroom.toml"
    config.write_text(SETTINGS.format(home=tmp_path))
    open_store(sqlite_url(tmp_path)).close()
    result = run(config, "evaluate")
    assert isinstance(result.exception, CommandFailed)
    assert "decided on no request of any release in the last 30 days" in str(result.exception)


def test_a_request_is_explained_with_its_labels(world: tuple[Path, Store]):
    labels.add(world[1], [
        Label(request_id="r0", source="judge", created_at=1, release_id=None, comparator="judge", agreement=0.5,
              propensity=1.0)
    ])  # fmt: skip
    result = run(world[0], "explain", "r0")
    assert result.exit_code == 0
    assert result.output.startswith("student, confident\nThe student was sure enough")
    assert "Label by judge, compared by judge: agreement 0.5." in result.output
    shown = json.loads(run(world[0], "explain", "r1", "--json").output)
    assert (shown["route"], shown["reason"], shown["labels"]) == ("teacher", "hard", [])
    assert "score is too low" in shown["why"][0]


def test_a_text_is_explained_by_the_live_router(world: tuple[Path, Store]):
    result = run(world[0], "explain", "--text", "please integral w1")
    assert result.output.startswith("teacher, hard\n")
    assert "The word 'integral' speaks for the teacher" in result.output


def test_without_a_release_a_text_goes_to_the_teacher(tmp_path: Path):
    config = tmp_path / "stillroom.toml"
    config.write_text(SETTINGS.format(home=tmp_path))
    open_store(sqlite_url(tmp_path)).close()
    assert "There is no release live" in run(config, "explain", "--text", "hello").output


@pytest.mark.parametrize("arguments", [(), ("r0", "--text", "x")], ids=["neither", "both"])
def test_one_of_id_and_text_is_asked_for(world: tuple[Path, Store], arguments: tuple[str, ...]):
    result = run(world[0], "explain", *arguments)
    assert result.exit_code == 2
    assert "give a request's id, or --text" in result.output


def test_an_unknown_request_is_said_to_be_unknown(world: tuple[Path, Store]):
    result = run(world[0], "explain", "req_nowhere")
    assert isinstance(result.exception, CommandFailed)
    assert "req_nowhere" in str(result.exception)


def test_a_release_whose_folder_is_gone_is_explained_without_its_thresholds(world: tuple[Path, Store]):
    releases.add(world[1], release("rel-gone"))
    insert_records(world[1], [row("old", reason="hard", score=0.2, release_id="rel-gone")])
    result = run(world[0], "explain", "old")
    assert "score is too low" in result.output
    assert "tried from" not in result.output
