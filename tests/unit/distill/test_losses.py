"""Losses against the published vectors, dense references and their own symmetries."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from distill.losses import LossSettings, Targets, distillation_loss, generalised_jsd, sparse_forward_kl

STUDENT = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
TEACHER = torch.tensor([[1.0, 3.0, 0.0, -2.0]], dtype=torch.float64)
TAILS = ("bucket", "renormalise")


def logits(probabilities: list[float]) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def top(teacher_logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    logprobs, ids = teacher_logits.log_softmax(-1).topk(k)
    return ids, logprobs


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.0, 1.757780), (1.0, 1.757780), (0.5, 0.368064), (0.25, 0.285781), (0.75, 0.285781), (0.1, 0.146311)],
)
def test_jsd_of_two_mirrored_coins(beta: float, expected: float):
    value = generalised_jsd(logits([0.1, 0.9]), logits([0.9, 0.1]), beta, 1.0)
    assert value.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.0, 0.02391205), (0.25, 0.00443591), (0.5, 0.00585954), (0.75, 0.00435919), (1.0, 0.02308831)],
)
def test_jsd_of_three_outcomes(beta: float, expected: float):
    value = generalised_jsd(logits([0.6, 0.3, 0.1]), logits([0.5, 0.4, 0.1]), beta, 1.0)
    assert value.item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1.0, [0.977336, 0.156686, 0.203007, 1.004163]), (2.0, [0.268614, 0.048758, 0.064789, 0.279999])],
)
def test_jsd_averaged_over_labels(temperature: float, expected: list[float]):
    generator = torch.Generator().manual_seed(42)
    student, teacher = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)
    labelled = torch.tensor([[-100, 1, 2], [-100, -100, 3]]) != -100
    values = [
        generalised_jsd(student[labelled], teacher[labelled], beta, temperature).mean().item()
        for beta in (0.0, 0.25, 0.5, 1.0)
    ]
    assert values == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("temperature", "forward", "reverse", "jsd"),
    [(1.0, 0.823520, 0.937533, 0.200979), (2.0, 0.235888, 0.229627, 0.056875), (4.0, 0.056064, None, None)],
)
def test_dense_divergences_at_a_temperature(temperature, forward, reverse, jsd):
    for beta, expected in ((0.0, forward), (1.0, reverse), (0.5, jsd)):
        if expected is not None:
            value = generalised_jsd(STUDENT, TEACHER, beta, temperature)
            assert value.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("tail", "temperature", "expected"),
    [
        ("bucket", 1.0, 0.820337),
        ("renormalise", 1.0, 0.955653),
        ("bucket", 2.0, 0.261272),
        ("renormalise", 2.0, 0.570665),
    ],
)
def test_sparse_divergence_from_the_top_two(tail, temperature: float, expected: float):
    value = sparse_forward_kl(STUDENT, *top(TEACHER, 2), temperature, tail)
    assert value.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("temperature", "scaled"), [(2.0, 0.943551), (4.0, 0.897021)])
def test_the_soft_part_of_the_loss_is_scaled_by_the_squared_temperature(temperature: float, scaled: float):
    ids, logprobs = top(TEACHER, 4)
    targets = Targets(torch.tensor([1]), ids, logprobs)
    value = distillation_loss(STUDENT, targets, LossSettings(1.0, temperature, "renormalise"))
    assert value.item() == pytest.approx(scaled, abs=2e-6)


def test_the_soft_part_at_two_from_stored_logs_is_the_published_one():
    targets = Targets(torch.tensor([1]), *top(TEACHER, 2))
    value = distillation_loss(STUDENT, targets, LossSettings(1.0, 2.0, "renormalise"))
    assert value.item() == pytest.approx(2.282659, abs=2e-6)


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_a_beta_outside_the_unit_interval_is_refused(beta: float):
    with pytest.raises(ValueError, match="beta"):
        generalised_jsd(STUDENT, TEACHER, beta, 1.0)


SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 4.0])


@settings(deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), TEMPERATURES)
def test_identical_distributions_have_no_divergence(seed: int, beta: float, temperature: float):
    rows = randn(3, 7, seed=seed)
    assert generalised_jsd(rows, rows + 2.5, beta, temperature).abs().max().item() < 1e-12
    for tail in TAILS:
        value = sparse_forward_kl(rows, *top(rows, 7), temperature, tail)
        assert value.abs().max().item() < 1e-6


@settings(deadline=None)
@given(SEEDS, TEMPERATURES)
def test_jsd_at_a_half_is_symmetric_and_bounded(seed: int, temperature: float):
    one, other = randn(4, 6, seed=seed) * 3, randn(4, 6, seed=seed + 1) * 3
    there, back = generalised_jsd(one, other, 0.5, temperature), generalised_jsd(other, one, 0.5, temperature)
    torch.testing.assert_close(there, back)
    assert (there >= -1e-12).all()
    assert (there <= torch.log(torch.tensor(2.0)) + 1e-12).all()


def test_jsd_away_from_a_half_is_not_symmetric():
    there, back = generalised_jsd(STUDENT, TEACHER, 0.1, 1.0), generalised_jsd(TEACHER, STUDENT, 0.1, 1.0)
    assert abs((there - back).item()) > 1e-3


@settings(deadline=None)
@given(SEEDS, TEMPERATURES, st.sampled_from(TAILS), st.integers(1, 6))
def test_sparse_divergence_is_never_negative(seed: int, temperature: float, tail, k: int):
    value = sparse_forward_kl(randn(4, 6, seed=seed) * 3, *top(randn(4, 6, seed=seed + 1), k), temperature, tail)
    assert (value >= -1e-9).all()


@settings(deadline=None)
@given(SEEDS, TEMPERATURES, st.sampled_from(TAILS))
def test_sparse_over_the_whole_vocabulary_is_dense(seed: int, temperature: float, tail):
    student, teacher = randn(3, 5, seed=seed), randn(3, 5, seed=seed + 1)
    sparse = sparse_forward_kl(student, *top(teacher, 5), temperature, tail)
    torch.testing.assert_close(sparse, generalised_jsd(student, teacher, 0.0, temperature), atol=1e-6, rtol=1e-6)


@settings(deadline=None)
@given(SEEDS)
def test_a_bucket_never_sees_more_than_dense_does(seed: int):
    student, teacher = randn(4, 6, seed=seed), randn(4, 6, seed=seed + 1)
    dense = generalised_jsd(student, teacher, 0.0, 1.0)
    values = [sparse_forward_kl(student, *top(teacher, k), 1.0, "bucket") for k in (1, 3, 5)]
    assert (values[0] <= values[1] + 1e-9).all()
    assert (values[1] <= values[2] + 1e-9).all()
    assert (values[2] <= dense + 1e-9).all()


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_over_the_whole_vocabulary_is_the_dense_one(tail, temperature: float):
    student, teacher = randn(2, 4).requires_grad_(), randn(2, 4, seed=1)
    ids, logprobs = top(teacher, 4)
    assert torch.autograd.gradcheck(
        lambda x: sparse_forward_kl(x, ids, logprobs, temperature, "renormalise"), student
    )
    (sparse,) = torch.autograd.grad(sparse_forward_kl(student, ids, logprobs, temperature, tail).sum(), student)
    (dense,) = torch.autograd.grad(generalised_jsd(student, teacher, 0.0, temperature).sum(), student)
    torch.testing.assert_close(sparse, dense, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("tail", TAILS)
def test_the_gradient_of_a_sparse_divergence_is_right(tail):
    student = randn(3, 6).requires_grad_()
    ids, logprobs = top(randn(3, 6, seed=1), 2)
    ids[1, 1], ids[2] = -1, -1
    assert torch.autograd.gradcheck(lambda x: sparse_forward_kl(x, ids, logprobs, 2.0, tail), student)


@pytest.mark.parametrize("tail", TAILS)
def test_padding_of_the_soft_targets_changes_nothing(tail):
    student = randn(3, 9)
    ids, logprobs = top(randn(3, 9, seed=1), 3)
    padded_ids = functional.pad(ids, (0, 2), value=-1)
    padded_logs = functional.pad(logprobs, (0, 2), value=123.0)
    torch.testing.assert_close(
        sparse_forward_kl(student, padded_ids, padded_logs, 2.0, tail),
        sparse_forward_kl(student, ids, logprobs, 2.0, tail),
    )


@pytest.mark.parametrize("tail", TAILS)
def test_a_position_without_soft_target_has_cross_entropy_of_full_weight(tail):
    student = randn(2, 5).requires_grad_()
    labels = torch.tensor([1, 4])
    targets = Targets(labels, torch.full((2, 3), -1), torch.full((2, 3), 123.0))
    loss = distillation_loss(student, targets, LossSettings(0.7, 2.0, tail))
    (gradient,) = torch.autograd.grad(loss, student)
    reference = functional.cross_entropy(student, labels)
    (expected,) = torch.autograd.grad(reference, student)
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(gradient, expected)


def mixed(seed: int = 0) -> tuple[Tensor, Targets]:
    ids, logprobs = top(randn(6, 8, seed=seed + 1), 3)
    ids[2] = -1
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    return randn(6, 8, seed=seed), Targets(labels, ids, logprobs, torch.tensor([1.0, 2.0, 1.0, 0.0, 0.5, 1.0]))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_the_mix_that_its_docstring_says(temperature: float):
    student, targets = mixed()
    cross_entropy = functional.cross_entropy(student, targets.labels, reduction="none")
    soft = sparse_forward_kl(student, targets.soft_ids, targets.soft_logprobs, temperature, "bucket")
    mix = 0.3 * temperature**2 * soft + 0.7 * cross_entropy
    mix[2] = cross_entropy[2]
    loss = distillation_loss(student, targets, LossSettings(0.3, temperature, "bucket"))
    torch.testing.assert_close(loss, (mix * targets.weights).mean())


def test_alpha_zero_and_no_soft_targets_are_plain_cross_entropy():
    student, targets = mixed()
    reference = functional.cross_entropy(student, targets.labels)
    none = Targets(targets.labels, targets.soft_ids[:, :0], targets.soft_logprobs[:, :0])
    hard = Targets(targets.labels, targets.soft_ids, targets.soft_logprobs)
    torch.testing.assert_close(distillation_loss(student, none, LossSettings(1.0)), reference)
    torch.testing.assert_close(distillation_loss(student, hard, LossSettings(0.0)), reference)


def test_twice_the_items_halves_the_loss():
    student, targets = mixed()
    one, two = (distillation_loss(student, targets, LossSettings(), items) for items in (6, torch.tensor(12)))
    torch.testing.assert_close(one, 2 * two)


def test_the_weight_of_cross_entropy_reaches_the_gradient():
    student, targets = mixed()
    student.requires_grad_()
    gradients = [
        torch.autograd.grad(distillation_loss(student, targets, LossSettings(alpha)), student)[0]
        for alpha in (0.2, 0.8)
    ]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_a_batch_without_a_label_has_loss_zero_with_a_gradient():
    student = randn(0, 5).requires_grad_()
    empty = Targets(torch.zeros(0, dtype=torch.long), torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2))
    loss = distillation_loss(student, empty, LossSettings())
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 5))
def test_order_and_cuts_of_a_batch_do_not_change_the_sum(order: list[int], cut: int):
    student, targets = mixed()
    whole = distillation_loss(student, targets, LossSettings(0.6, 2.0, "bucket"), 6)
    parts = [
        distillation_loss(student[rows], take(targets, rows), LossSettings(0.6, 2.0, "bucket"), 6)
        for rows in (torch.tensor(order[:cut]), torch.tensor(order[cut:]))
    ]
    torch.testing.assert_close(whole, parts[0] + parts[1])


def take(targets: Targets, rows: Tensor) -> Targets:
    return Targets(targets.labels[rows], targets.soft_ids[rows], targets.soft_logprobs[rows], targets.weights[rows])
