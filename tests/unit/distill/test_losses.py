"""Losses against independent definitions in numpy, dense references, their gradients and their own symmetries."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from distill import divergences
from distill.divergences import dense_divergence, picked_logprobs
from distill.loss_settings import Divergence, LossSettings
from distill.losses import Targets, distillation_loss, sparse_divergence
from distill.settings import TrainingSettings
from distill.train_config import TrainConfig

STUDENT = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
TEACHER = torch.tensor([[1.0, 3.0, 0.0, -2.0]], dtype=torch.float64)
TAILS = ("bucket", "renormalise", "ignore")
WHOLE = ("bucket", "renormalise")
KINDS = (
    Divergence("forward_kl"),
    Divergence("reverse_kl"),
    Divergence("jsd", 0.3),
    Divergence("skew_forward_kl", 0.1),
    Divergence("skew_reverse_kl", 0.1),
)
SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 4.0])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def top(teacher_logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    logprobs, ids = teacher_logits.log_softmax(-1).topk(k)
    return ids, logprobs


def sparse_forward_kl(student: Tensor, ids: Tensor, logprobs: Tensor, temperature: float, tail) -> Tensor:
    return sparse_divergence(student, ids, logprobs, LossSettings(1.0, temperature, tail))


def generalised_jsd(student: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
    return dense_divergence(student, teacher, Divergence("jsd", beta), temperature)


def combinations():
    """Each divergence with each tail that it is finite with."""
    return [(kind, tail) for kind in KINDS for tail in TAILS if (kind.name, tail) != ("reverse_kl", "renormalise")]


def by_definition(p: np.ndarray, q: np.ndarray, kind: Divergence) -> float:
    """The formulas of the papers, one distribution at a time."""

    def kl(one: np.ndarray, other: np.ndarray) -> float:
        return sum(float(a * np.log(a / b)) for a, b in zip(one, other, strict=True) if a > 0)

    beta, mixture = kind.beta, kind.beta * p + (1 - kind.beta) * q
    return {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "jsd": lambda: beta * kl(p, mixture) + (1 - beta) * kl(q, mixture),
        "skew_forward_kl": lambda: kl(p, mixture),
        "skew_reverse_kl": lambda: kl(q, beta * q + (1 - beta) * p),
    }[kind.name]()


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    raised = np.exp(logits / temperature - np.max(logits / temperature))
    return raised / raised.sum()


def cells(teacher: np.ndarray, student: np.ndarray, k: int, temperature: float, tail: str):
    """Both sides' cells from the teacher's top k, by sums over the whole vocabulary."""
    listed = np.argsort(-teacher)[:k]
    at_one, q = softmax(teacher), softmax(student, temperature)
    p, q_listed = at_one[listed] ** (1 / temperature), q[listed]
    if tail == "ignore":
        return p / p.sum(), q_listed / q_listed.sum()
    rest = np.delete(at_one, listed).sum() ** (1 / temperature) if tail == "bucket" else 0.0
    p = np.append(p, rest)
    return p / p.sum(), np.append(q_listed, np.delete(q, listed).sum())


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(KINDS), TEMPERATURES, st.sampled_from([torch.float32, torch.float64]))
def test_dense_divergences_are_the_published_definitions(seed: int, kind: Divergence, temperature: float, dtype):
    student, teacher = randn(3, 9, seed=seed), randn(3, 9, seed=seed + 1) * 2
    value = dense_divergence(student.to(dtype), teacher.to(dtype), kind, temperature)
    pairs = zip(teacher.numpy(), student.numpy(), strict=True)
    expected = [by_definition(softmax(p, temperature), softmax(q, temperature), kind) for p, q in pairs]
    assert value.tolist() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=100, deadline=None)
@given(
    SEEDS,
    st.sampled_from(combinations()),
    TEMPERATURES,
    st.integers(1, 8),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_sparse_divergences_are_the_published_definitions_on_their_cells(
    seed: int, combination, temperature, k, dtype
):
    kind, tail = combination
    student, teacher = randn(3, 9, seed=seed), randn(3, 9, seed=seed + 1)
    ids, logprobs = top(teacher, k)
    value = sparse_divergence(student.to(dtype), ids, logprobs.to(dtype), LossSettings(1.0, temperature, tail, kind))
    pairs = zip(teacher.numpy(), student.numpy(), strict=True)
    expected = [by_definition(*cells(p, q, k, temperature, tail), kind) for p, q in pairs]
    assert value.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_of_a_dense_divergence_is_right(kind: Divergence, temperature: float, monkeypatch):
    monkeypatch.setattr(divergences, "ELEMENTS_AT_ONCE", 12)
    student, teacher = randn(5, 6).requires_grad_(), randn(5, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda q, p: dense_divergence(q, p, kind, temperature), (student, teacher))


@pytest.mark.parametrize(("kind", "tail"), combinations(), ids=str)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_of_a_sparse_divergence_is_right(kind: Divergence, tail, temperature: float, monkeypatch):
    monkeypatch.setattr(divergences, "ELEMENTS_AT_ONCE", 12)
    student = randn(5, 6).requires_grad_()
    ids, logprobs = top(randn(5, 6, seed=1), 3)
    ids[1, 1], ids[2] = -1, -1
    how = LossSettings(1.0, temperature, tail, kind)
    assert torch.autograd.gradcheck(lambda x: sparse_divergence(x, ids, logprobs, how), student)


@pytest.mark.parametrize(("kind", "tail"), combinations(), ids=str)
def test_a_row_without_a_target_is_zero_without_gradient(kind: Divergence, tail):
    student = randn(2, 6).requires_grad_()
    ids, logprobs = top(randn(2, 6, seed=1), 3)
    ids[1] = -1
    value = sparse_divergence(student, ids, logprobs, LossSettings(1.0, 2.0, tail, kind))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert value[1] == 0.0
    assert (gradient[1] == 0.0).all()
    assert (gradient[0] != 0.0).any()


@pytest.mark.parametrize(("kind", "tail"), combinations(), ids=str)
def test_the_gradient_of_the_whole_loss_is_right(kind: Divergence, tail):
    student, targets = mixed()
    how = LossSettings(0.4, 2.0, tail, kind)
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, targets, how), student.requires_grad_())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_picked_logprobs_are_those_of_a_log_softmax_a_few_rows_at_a_time(temperature: float, monkeypatch):
    monkeypatch.setattr(divergences, "ELEMENTS_AT_ONCE", 22)
    logits, ids = randn(7, 11).requires_grad_(), torch.randint(0, 11, (7, 4))
    picked = picked_logprobs(logits, ids, temperature)
    reference = (logits / temperature).log_softmax(-1).gather(-1, ids)
    torch.testing.assert_close(picked, reference)
    weights = randn(7, 4, seed=1)
    gradients = [torch.autograd.grad((each * weights).sum(), logits)[0] for each in (picked, reference)]
    torch.testing.assert_close(*gradients)


class Sizes(TorchDispatchMode):
    """Notes how many elements each operation's new result has."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, function, kinds, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        is_view = function.is_view or "split" in str(function)
        results = result if isinstance(result, tuple | list) else [result]
        self.made += [each.numel() for each in results if isinstance(each, Tensor) and not is_view]
        return result


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("side", ["sparse", "dense"])
def test_no_copy_as_large_as_the_logits_is_made_before_the_gradient(side: str, temperature: float, monkeypatch):
    monkeypatch.setattr(divergences, "ELEMENTS_AT_ONCE", 400)
    student, teacher = randn(64, 100).requires_grad_(), randn(64, 100, seed=1)
    targets = Targets(torch.zeros(64, dtype=torch.long), *top(teacher, 5))
    kept: dict[int, int] = {}
    own = {student.untyped_storage().data_ptr(), teacher.untyped_storage().data_ptr()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[id(tensor)] = tensor.numel()
        return tensor

    with Sizes() as forward, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if side == "sparse":
            loss = distillation_loss(student, targets, LossSettings(0.5, temperature))
        else:
            loss = dense_divergence(student, teacher, Divergence("jsd", 0.5), temperature).sum()
    with Sizes() as backward:
        loss.backward()
    assert max(forward.made) <= 400, "a few rows at a time"
    assert sum(kept.values()) < student.numel() / 2, "and not kept for the backward pass"
    # the gradient, and where the temperature asks for two passes theirs and their sum
    assert sum(size >= student.numel() for size in backward.made) <= (
        1 if temperature == 1.0 or side == "dense" else 3
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Divergence("jsd", -0.1), "beta is -0.1"),
        (lambda: Divergence("jsd", 1.1), "beta is 1.1"),
        (lambda: Divergence("forward_kl", float("nan")), "beta is nan"),
        (lambda: Divergence("skew_forward_kl", 1.0), "nothing to learn"),
        (lambda: LossSettings(divergence=Divergence("reverse_kl")), "infinite"),
        (lambda: LossSettings(divergence=Divergence("jsd", 1.0)), "infinite"),
        (lambda: LossSettings(divergence=Divergence("skew_reverse_kl", 0.0)), "infinite"),
    ],
)
def test_a_loss_that_means_nothing_is_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_settings_name_the_loss_that_a_job_trains_with():
    with pytest.raises(ValueError, match="infinite"):
        TrainingSettings(divergence="reverse_kl")
    chosen = TrainingSettings(alpha=0.8, temperature=2.0, tail="ignore", divergence="skew_reverse_kl", beta=0.1)
    values = {k: v for k, v in msgspec.to_builtins(chosen).items() if k != "continued_epochs"}
    config = msgspec.convert(values | {"weights": "", "examples": "", "output": ""}, TrainConfig)
    assert config.loss == LossSettings(0.8, 2.0, "ignore", Divergence("skew_reverse_kl", 0.1))


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
