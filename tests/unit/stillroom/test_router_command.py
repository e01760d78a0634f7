"""``stillroom router evaluate`` as a shell sees it: figures in the stated shape, and one line for what is wrong."""

import csv
import json
import random
from functools import partial

import pytest

MEASURES = {"apgr", "apgr_ci", "cpt50", "cpt80", "auc", "ece", "aiq"}
TOPICS = {
    "tides": ["moon", "water", "coast", "harbour", "current", "wave", "shore", "boat", "salt", "drift"],
    "bread": ["flour", "yeast", "oven", "crust", "dough", "salt", "starter", "crumb", "loaf", "heat"],
    "law": ["court", "clause", "appeal", "tort", "statute", "judge", "writ", "bail", "plea", "deed"],
    "chess": ["bishop", "rook", "castle", "pawn", "queen", "file", "rank", "check", "mate", "gambit"],
}


def table(path, n=160, strong_is_better=True, seed=0):
    """Prompts on four topics; the strong model helps with long ones."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        topic = list(TOPICS)[i % 4]
        words = rng.choices(TOPICS[topic], k=rng.randint(4, 40))
        helps = rng.random() < (0.8 if len(words) > 22 else 0.1)
        weak, strong = (not helps, True) if strong_is_better else (True, not helps)
        rows.append({"prompt": f"{i} " + " ".join(words), "small": weak, "large": strong, "subject": topic})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture
def run(tmp_path, monkeypatch, stillroom):
    """Runs the entry point where there is neither a settings file nor a ledger."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_HOME", str(tmp_path / "home"))

    return partial(stillroom, "router", "evaluate")


def test_json_has_both_splits_and_the_one_with_unseen_groups_is_the_headline(run, tmp_path):
    status, out, err = run("--dataset", table(tmp_path / "t.csv"), "--folds", "2", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["n"] == 160 and found["split"] == "out_of_domain"
    assert set(found["router"]) == MEASURES
    assert {"random", "length", "group_mean", "tfidf", "oracle"} <= set(found["baselines"])
    assert all(set(found["baselines"][name]) == MEASURES for name in ("random", "length", "tfidf", "oracle"))
    assert found["baselines"]["random"]["apgr"] == 0.5
    assert found["baselines"]["group_mean"]["apgr"] == 0.5  # no group was seen
    low, high = found["router"]["apgr_ci"]
    assert low < found["router"]["apgr"] < high
    assert found["baselines"]["length"]["apgr"] > 0.65
    assert len(found["margin_over_length_ci"]) == 2
    assert found["router"] == found["splits"]["out_of_domain"]["router"]
    assert found["splits"]["in_domain"]["n"] == 160
    assert (found["weak"], found["strong"], found["dropped"]) == ("small", "large", 0)
    assert "took 'small' as weak" in err and "4 groups" in err


def test_the_same_seed_gives_the_same_figures_and_a_table_for_people(run, tmp_path):
    path = table(tmp_path / "t.csv", n=60)
    first, second = (run("--dataset", path, "--folds", "2", "--seed", "3")[1] for _ in range(2))
    assert first == second
    for word in ("in domain", "out of domain", "tfidf", "oracle", "beats prompt length out of domain"):
        assert word in first


def test_with_a_table_to_train_on_the_other_is_tested_and_drawn(run, tmp_path):
    train, tested = table(tmp_path / "train.csv", n=80, seed=1), table(tmp_path / "t.csv", n=60, seed=2)
    plot = tmp_path / "curve.png"
    status, out, _ = run("--dataset", tested, "--train", train, "--plot", str(plot), "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["split"], found["n"], found["n_train"]) == ("transfer", 60, 80)
    assert found["splits"]["in_domain"] is None
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_strong_model_that_is_no_better_is_said_and_reported_anyway(run, tmp_path):
    path = table(tmp_path / "t.csv", n=60, strong_is_better=False)
    status, out, err = run("--dataset", path, "--weak", "small", "--strong", "large", "--folds", "2", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["router"]["apgr"] is None and found["margin_over_length_ci"] == [None, None]
    assert "not better than the weak one" in err
    assert "cannot be told" in found["verdict"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "none.csv"], "no such file"),
        (
            ["--dataset", "t.csv", "--weak", "tiny"],
            "no column 'tiny'; there are 'prompt', 'small', 'large', 'subject'",
        ),
        (["--dataset", "t.csv", "--plot", "nowhere/x.png"], "no directory"),
        (["--dataset", "few.csv"], "only 4 complete rows"),
        (["--weak", "small"], "--weak needs --dataset"),
        (["--dataset", "t.csv", "--folds", "1"], "--folds"),
    ],
    ids=["no-file", "no-column", "no-directory", "few-rows", "no-dataset", "one-fold"],
)
def test_what_is_wrong_is_one_line_and_status_two(run, tmp_path, arguments, said):
    table(tmp_path / "t.csv", n=40)
    table(tmp_path / "few.csv", n=4)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("stillroom: ") and said in last
