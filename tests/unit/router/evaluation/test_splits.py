"""Near-duplicates are found, and no split has them on both sides."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.evaluation.duplicates import near_duplicates
from router.evaluation.splits import in_domain, out_of_domain, transfer

WORDS = [f"{a}{b}{c}" for a in "bdklmprst" for b in "aeiou" for c in ("n", "rk", "lt", "sh")]


def sentence(rng: random.Random, words: int = 30) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def test_case_space_and_a_changed_word_make_no_other_prompt():
    rng = random.Random(0)
    prompts = [sentence(rng, 60) for _ in range(200)]
    prompts += [prompts[3].upper() + " \n", prompts[7] + " please", prompts[9].replace(" ", "  ")]
    clusters = near_duplicates(prompts)
    assert clusters[200] == clusters[3] and clusters[201] == clusters[7] and clusters[202] == clusters[9]
    assert clusters.max() + 1 == 200


def test_a_shared_instruction_does_not_make_prompts_near_duplicates():
    rng = random.Random(1)
    instruction = "Answer the question with one letter. Think of every choice before you answer. " * 5
    prompts = [instruction + sentence(rng, 12) for _ in range(300)]
    assert np.unique(near_duplicates(prompts)).size == 300
    assert np.unique(near_duplicates([*prompts, prompts[0] + "!"])).size == 300


@settings(max_examples=40)
@given(st.lists(st.text(max_size=40), max_size=30))
def test_any_text_has_a_cluster_and_equal_texts_have_the_same(prompts):
    clusters = near_duplicates([*prompts, *prompts])
    assert clusters.shape == (2 * len(prompts),)
    assert (clusters[: len(prompts)] == clusters[len(prompts) :]).all()


clusterings = st.lists(st.integers(0, 9), min_size=4, max_size=60).filter(lambda found: len(set(found)) > 1)


@given(clusterings, st.integers(2, 6), st.integers(0, 99))
def test_no_cluster_is_on_both_sides_of_a_random_fold(numbers, folds, seed):
    clusters = np.unique(numbers, return_inverse=True)[1]
    made = in_domain(clusters, folds, seed)
    for fold in made:
        assert set(clusters[fold.train]).isdisjoint(clusters[fold.test])
        assert fold.train.size + fold.test.size == clusters.size
    assert sorted(np.concatenate([fold.test for fold in made])) == list(range(clusters.size))


@given(clusterings, st.integers(2, 6), st.integers(0, 99))
def test_out_of_domain_neither_a_group_nor_a_cluster_is_on_both_sides(numbers, folds, seed):
    rng = np.random.default_rng(seed)
    groups, clusters = [f"g{number}" for number in numbers], rng.integers(0, 5, size=len(numbers))
    made = out_of_domain(groups, clusters, folds, seed)
    for fold in made:
        assert {groups[row] for row in fold.train}.isdisjoint({groups[row] for row in fold.test})
        assert set(clusters[fold.train]).isdisjoint(clusters[fold.test])
    assert sorted(np.concatenate([fold.test for fold in made])) == list(range(len(numbers)))


def test_rows_like_those_of_the_other_table_are_not_trained_on():
    (fold,) = transfer(3, np.array([0, 1, 2, 1, 3]))
    assert fold.train.tolist() == [0, 2]
    assert fold.test.tolist() == [3, 4]


def test_one_group_alone_cannot_be_split():
    with pytest.raises(ValueError, match="two groups"):
        in_domain(np.zeros(5, dtype=int), 5, 0)
