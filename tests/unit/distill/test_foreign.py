"""Distances between vocabularies that share nothing, tokens aligned by bytes, and rewards of a student's words."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill import divergences
from distill.foreign import (
    Side,
    aligned_groups,
    answers_distance,
    merged_probabilities,
    sorted_distance,
    universal_logit_distance,
)
from distill.on_policy import MOST, discounted_sum, drift_weights, long_term_loss, token_rewards

SEEDS = st.integers(0, 2**31)
CUTS = st.sets(st.integers(1, 30), min_size=1, max_size=12).map(sorted)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(2, 9), st.integers(2, 9), st.sampled_from([1.0, 2.0]))
def test_the_distance_is_that_of_the_sorted_probabilities(seed: int, v: int, w: int, temperature: float):
    student, teacher = randn(4, v, seed=seed), randn(4, w, seed=seed + 1)
    value = universal_logit_distance(student, teacher, temperature)
    for row in range(4):
        sides = []
        for logits in (student[row].numpy(), teacher[row].numpy()):
            raised = np.exp(logits / temperature)
            sides.append(np.pad(np.sort(raised / raised.sum())[::-1], (0, 9 - len(logits))))
        assert value[row].item() == pytest.approx(np.abs(sides[0] - sides[1]).sum(), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.permutations(range(7)))
def test_which_token_is_likely_does_not_matter_only_how_likely(seed: int, order: list[int]):
    student, teacher = randn(3, 7, seed=seed), randn(3, 5, seed=seed + 1)
    value = universal_logit_distance(student, teacher)
    torch.testing.assert_close(value, universal_logit_distance(student[:, order], teacher))
    torch.testing.assert_close(value, universal_logit_distance(teacher, student))
    assert ((value >= 0) & (value <= 2)).all()
    assert universal_logit_distance(student, student[:, order]).abs().max() < 1e-12


def test_the_gradient_of_the_distance_is_right(monkeypatch):
    monkeypatch.setattr(divergences, "ELEMENTS_AT_ONCE", 14)
    teacher = randn(5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x: universal_logit_distance(x, teacher), randn(5, 7).requires_grad_())


@given(CUTS, CUTS)
def test_groups_end_on_the_bytes_that_both_sides_end_on(student: list[int], teacher: list[int]):
    mine, theirs = aligned_groups(torch.tensor(student), torch.tensor(teacher))
    common = sorted(set(student) & set(teacher))
    for ends, groups in ((student, mine), (teacher, theirs)):
        assert groups.tolist() == sorted(groups.tolist())
        for number, byte in enumerate(common):
            assert groups[ends.index(byte)] == number
        closed = [end for end, group in zip(ends, groups.tolist(), strict=True) if group < len(common)]
        assert closed == [end for end in ends if common and end <= common[-1]]


def test_text_that_one_side_cuts_finer_is_one_group():
    # "unhappy" as un|happy and unha|p|py, then "!" on both sides
    mine, theirs = aligned_groups(torch.tensor([2, 7, 8]), torch.tensor([4, 5, 7, 8]))
    assert mine.tolist() == [0, 0, 1]
    assert theirs.tolist() == [0, 0, 0, 1]


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_merged_group_is_a_row_times_its_other_tokens_probabilities(seed: int, sizes: list[int]):
    n = sum(sizes)
    probabilities = randn(n, 5, seed=seed).softmax(-1)
    ids = torch.randint(0, 5, (n,), generator=torch.Generator().manual_seed(seed))
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    for merge in ("observed", "bayesian"):
        merged, at = merged_probabilities(probabilities, ids, groups, merge), 0
        for number, size in enumerate(sizes):
            rows = list(range(at, at + size))
            whole = rows.pop(0 if merge == "observed" else -1)
            scalar = np.prod([probabilities[row, ids[row]].item() for row in rows])
            torch.testing.assert_close(merged[number], probabilities[whole] * scalar)
            at += size


def test_merging_and_the_distance_pass_a_gradient_on():
    ids, groups = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, 1])
    teacher = randn(2, 6, seed=1).softmax(-1)

    def distance(logits: Tensor) -> Tensor:
        return sorted_distance(merged_probabilities(logits.softmax(-1), ids, groups, "bayesian"), teacher)

    assert torch.autograd.gradcheck(distance, randn(4, 5).requires_grad_())


def test_no_token_has_no_group():
    none = torch.zeros(0, dtype=torch.long)
    assert merged_probabilities(torch.zeros(0, 3), none, none).shape == (0, 3)


def test_answers_are_compared_one_by_one_where_both_sides_end_and_not_at_all_where_the_teacher_has_none():
    # the second answer is the student's alone; "unhappy" of the third is cut as above
    mine = Side(
        randn(6, 7),
        torch.tensor([1, 2, 3, 4, 5, 6]),
        torch.tensor([3, 4, 9, 2, 7, 8]),
        torch.tensor([0, 0, -1, 1, 1, 1]),
    )
    theirs = Side(
        randn(6, 5, seed=1),
        torch.tensor([0, 1, 2, 3, 4, 0]),
        torch.tensor([3, 4, 4, 5, 7, 8]),
        torch.tensor([0, 0, 1, 1, 1, 1]),
    )
    found = answers_distance(mine, theirs, 2.0)
    alike = universal_logit_distance(mine.logits[[0, 1, 5]], theirs.logits[[0, 1, 5]], 2.0)
    torch.testing.assert_close(found[[0, 1, 5]], alike)
    assert found[2] == -1
    q, p = (side.logits.div(2).softmax(-1) for side in (mine, theirs))
    merged = sorted_distance((q[4] * q[3, 4])[None], (p[4] * p[2, 2] * p[3, 3])[None])
    torch.testing.assert_close(found[3:5], merged.expand(2))


def test_the_gradient_of_answers_is_right():
    ids, ends, rows = torch.tensor([1, 2, 0]), torch.tensor([1, 3, 4]), torch.tensor([0, 0, 1])
    theirs = Side(randn(3, 4, seed=1), ids, torch.tensor([2, 3, 4]), rows)
    assert torch.autograd.gradcheck(
        lambda x: answers_distance(Side(x, ids, ends, rows), theirs), randn(3, 5).requires_grad_()
    )


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(0, 1))
def test_a_discounted_sum_obeys_its_recursion(rewards: list[float], gamma: float):
    values = torch.tensor([rewards], dtype=torch.float64)
    summed = discounted_sum(values, gamma)[0].tolist()
    for t in range(len(rewards)):
        later = summed[t + 1] if t + 1 < len(rewards) else 0.0
        assert summed[t] == pytest.approx(rewards[t] + gamma * later, abs=1e-9)


def test_the_advantage_of_what_the_student_says_lowers_its_reverse_divergence():
    student, teacher = randn(1, 6).requires_grad_(), randn(1, 6, seed=1)
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    (exact,) = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), student, retain_graph=True)
    # every token once, weighted by how often it would be drawn
    advantage = discounted_sum((log_p - log_q).detach().T, 0.0).T
    (drawn,) = torch.autograd.grad(-(log_q.exp().detach() * advantage * log_q).sum(), student)
    torch.testing.assert_close(exact, drawn)


def test_the_two_terms_of_a_sampled_answer_are_the_gradient_of_the_whole_answers_divergence():
    # three tokens of a vocabulary of 2: the logits of each depend on what was said before
    said = [[a, b, c] for a in range(2) for b in range(2) for c in range(2)]
    places = [[0, 1 + a, 3 + 2 * a + b] for a, b, _ in said]
    student, teacher = randn(7, 2).requires_grad_(), randn(7, 2, seed=1)
    answers, at = torch.tensor(said), torch.tensor(places)
    log_q, log_p = (each.log_softmax(-1)[at].gather(-1, answers[..., None])[..., 0] for each in (student, teacher))
    chance = log_q.sum(-1).exp()
    (exact,) = torch.autograd.grad((chance * (log_q - log_p).sum(-1)).sum(), student, retain_graph=True)
    keep = torch.ones(8, 3, dtype=torch.bool)
    q, p = (each[at].flatten(0, 1) for each in (student, teacher))
    later = long_term_loss(q, token_rewards(q, p, answers.flatten(), keep), answers.flatten(), keep, 1.0)
    # without the length normalisation: times the number of tokens that follow
    later = later.view(8, 3) * torch.tensor([2.0, 1.0, 0.0])
    q, p = student.log_softmax(-1)[at], teacher.log_softmax(-1)[at]
    single = (q.exp() * (q - p)).sum(-1)
    (sampled,) = torch.autograd.grad((chance.detach() * (single + later).sum(-1)).sum(), student)
    torch.testing.assert_close(exact, sampled)


def test_answers_of_older_weights_count_as_those_of_the_present_student():
    said = torch.tensor([[a, b, c] for a in range(2) for b in range(2) for c in range(2)])
    at = torch.tensor([[0, 1 + a, 3 + 2 * a + b] for a, b, _ in said.tolist()])
    old = randn(7, 2)
    now = old + 0.4 * randn(7, 2, seed=3)
    log_old, log_now = (each.log_softmax(-1)[at].gather(-1, said[..., None])[..., 0] for each in (old, now))
    keep = torch.ones(8, 3, dtype=torch.bool)
    before, through = (each.view(8, 3) for each in drift_weights(log_now.flatten(), log_old.flatten(), keep))
    assert 1.1 < before.max() < MOST
    # whatever is said of the prefix before a token, and of that with the token, has the present student's mean
    of_prefix, of_token = randn(7, seed=2)[at], randn(7, 2, seed=3)[at].gather(-1, said[..., None])[..., 0]
    for weights, values in ((before, of_prefix), (through, of_token)):
        drawn, wanted = (each.sum(-1).exp()[:, None] for each in (log_old, log_now))
        torch.testing.assert_close((drawn * weights * values).sum(0), (wanted * values).sum(0))


def test_an_answer_that_has_become_much_likelier_counts_no_more_than_the_bound_and_the_next_row_begins_at_one():
    keep = torch.tensor([[False, True, True, True], [True, True, False, False]])
    before, through = drift_weights(
        torch.tensor([-0.5, -0.5, -0.5, -1.0, -1.0]), torch.tensor([-1.5, -0.5, -2.5, -1.0, -3.0]), keep
    )
    assert before.tolist() == pytest.approx([1.0, MOST, MOST, 1.0, 1.0])
    assert through.tolist() == pytest.approx([MOST, MOST, MOST, 1.0, MOST])


def test_what_follows_a_token_is_its_own_rows_and_ends_with_it():
    keep = torch.tensor([[False, True, True, False], [True, True, False, False]])
    student, teacher, labels = randn(4, 3).requires_grad_(), randn(4, 3, seed=1), torch.tensor([0, 1, 2, 0])
    rewards = (teacher.log_softmax(-1) - student.log_softmax(-1)).gather(-1, labels[:, None])[:, 0].detach()
    log_q = student.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    found = long_term_loss(student, token_rewards(student, teacher, labels, keep), labels, keep, 0.5)
    expected = torch.stack([-rewards[1] * log_q[0], log_q[1] * 0, -rewards[3] * log_q[2], log_q[3] * 0])
    torch.testing.assert_close(found, expected)
