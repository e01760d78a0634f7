"""The whole evaluation on made-up tables whose truth is known."""

import numpy as np
import pytest

from router.evaluation.layout import Columns
from router.evaluation.metrics import Outcomes
from router.evaluation.reading import TableError
from router.evaluation.report import Plan, evaluate_table
from router.evaluation.table import PromptTable

TOPICS = 6
PLAN = Plan(folds=2, seed=0)
CHANCE = 0.03
"""One interval of twenty misses the truth by a little; a router that saw the answers would miss it by far more."""


def made(rate, n=360, seed=0, grouped=True) -> PromptTable:
    """Prompts of six topics with vocabularies of their own; `rate(topic, words)` is the chance of benefit."""
    rng = np.random.default_rng(seed)
    topics, words = rng.integers(0, TOPICS, size=n), rng.integers(5, 60, size=n)
    prompts = [
        f"{i} " + " ".join(f"{'abcdef'[topic]}{word}" for word in rng.integers(0, 400, size=size))
        for i, (topic, size) in enumerate(zip(topics, words, strict=True))
    ]
    helps = rng.random(n) < np.array([rate(topic, size) for topic, size in zip(topics, words, strict=True)])
    weak = ~helps & (rng.random(n) < 0.9)
    outcomes = Outcomes(weak.astype(float), (weak | helps).astype(float), np.zeros(n), np.ones(n))
    groups = [f"topic {topic}" for topic in topics] if grouped else None
    return PromptTable(prompts, outcomes, groups, Columns(), "small", "large", False, {}, [])


def evaluated(table, train=None):
    return evaluate_table(table, train, PLAN, lambda said: None)


def test_where_nothing_tells_benefit_the_intervals_hold_chance_and_no_margin():
    found = evaluated(made(lambda topic, words: 0.3))
    for split in ("in_domain", "out_of_domain"):
        low, high = found["splits"][split]["router"]["apgr_ci"]
        assert low - CHANCE <= 0.5 <= high + CHANCE
        low, high = found["splits"][split]["margin_over_length_ci"]
        assert low - CHANCE <= 0.0 <= high + CHANCE
    assert ": no," in found["verdict"]


def test_where_length_tells_benefit_the_router_finds_it_on_topics_it_has_not_seen():
    found = evaluated(made(lambda topic, words: 0.1 + 0.7 * (words > 30)))
    assert found["split"] == "out_of_domain"
    assert found["router"]["apgr_ci"][0] > 0.55
    assert found["baselines"]["length"]["apgr_ci"][0] > 0.6


def test_where_only_the_topic_tells_benefit_no_topic_left_out_is_told():
    found = evaluated(made(lambda topic, words: 0.1 + 0.7 * (topic % 2)))
    inside, outside = found["splits"]["in_domain"], found["splits"]["out_of_domain"]
    assert inside["margin_over_length_ci"][0] > 0.1
    assert inside["baselines"]["group_mean"]["apgr"] > 0.65 and inside["baselines"]["tfidf"]["apgr"] > 0.65
    assert outside["baselines"]["group_mean"]["apgr"] == 0.5
    assert inside["router"]["ece"] < 0.15


def test_a_table_without_groups_has_no_split_out_of_domain():
    found = evaluated(made(lambda topic, words: 0.3, n=120, grouped=False))
    assert found["split"] == "in_domain"
    assert found["splits"]["out_of_domain"] is None


def test_twins_of_tested_prompts_are_not_trained_on_in_a_transfer():
    train, tested = made(lambda topic, words: 0.3, n=120, seed=1), made(lambda topic, words: 0.3, n=60, seed=2)
    train.prompts[:10] = [prompt.upper() for prompt in tested.prompts[:10]]
    found = evaluated(tested, train)
    assert (found["n"], found["n_train"]) == (60, 110)


def test_a_table_to_train_on_that_is_the_tested_one_again_is_refused():
    table = made(lambda topic, words: 0.3, n=60)
    with pytest.raises(TableError, match="near-duplicates"):
        evaluated(table, table)


def test_prompts_that_are_all_alike_cannot_be_split():
    table = made(lambda topic, words: 0.3, n=60)
    table.prompts[:] = ["the same"] * 60
    with pytest.raises(TableError, match="near-duplicates"):
        evaluated(table)


def test_benefit_that_everything_or_nothing_has_is_said_and_reported():
    said = []
    found = evaluate_table(made(lambda topic, words: 1.1, n=60), None, PLAN, said.append)
    assert any("nothing to tell apart" in note for note in said)
    assert found["router"]["auc"] is None
    assert found["router"]["apgr"] == pytest.approx(0.5, abs=0.05)


def test_the_curve_begins_at_the_weak_model_and_ends_at_the_strong_one():
    found = evaluated(made(lambda topic, words: 0.3, n=120))
    curve, single = found["curve"], found["baselines"]
    for name in ("router", "length", "random", "oracle"):
        assert curve[name]["quality"][0] == pytest.approx(single["always_weak"]["quality"], abs=1e-3)
        assert curve[name]["quality"][-1] == pytest.approx(single["always_strong"]["quality"], abs=1e-3)
    assert all(low <= high for low, high in zip(*curve["router_ci"].values(), strict=True))
