"""Fifteen test vectors that others published, each named by the project that has it."""

import math

import pytest
import torch
from torch import Tensor

from distill.divergences import dense_divergence
from distill.foreign import merged_probabilities, sorted_distance, universal_logit_distance
from distill.loss_settings import Divergence, LossSettings
from distill.losses import Targets, distillation_loss, sparse_divergence
from distill.on_policy import discounted_sum, prefix_weights

STUDENT = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
TEACHER = torch.tensor([[1.0, 3.0, 0.0, -2.0]], dtype=torch.float64)
FORWARD, REVERSE = Divergence("forward_kl"), Divergence("reverse_kl")


def jsd(student: Tensor, teacher: Tensor, beta: float, temperature: float = 1.0) -> Tensor:
    return dense_divergence(student, teacher, Divergence("jsd", beta), temperature)


def logits(probabilities: list[float]) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def top(teacher_logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    logprobs, ids = teacher_logits.log_softmax(-1).topk(k)
    return ids, logprobs


def near(value: Tensor, expected: float, tolerance: float = 1e-6) -> bool:
    return value.item() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.0, 1.757780), (1.0, 1.757780), (0.5, 0.368064), (0.25, 0.285781), (0.75, 0.285781), (0.1, 0.146311),
     (0.9, 0.146311)],
)  # fmt: skip
def test_1_two_mirrored_coins_of_trl_gkd(beta: float, expected: float):
    assert near(jsd(logits([0.1, 0.9]), logits([0.9, 0.1]), beta), expected)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.0, 0.02391205), (0.25, 0.00443591), (0.5, 0.00585954), (0.75, 0.00435919), (1.0, 0.02308831)],
)
def test_2_three_outcomes_of_trl_gold(beta: float, expected: float):
    assert near(jsd(logits([0.6, 0.3, 0.1]), logits([0.5, 0.4, 0.1]), beta), expected, 1e-8)


@pytest.mark.parametrize(
    ("temperature", "labelled", "of_batch"),
    [
        (1.0, [0.977336, 0.156686, 0.203007, 1.004163], [2.727015, 0.437469, 0.564872, 2.699794]),
        (2.0, [0.268614, 0.048758, 0.064789, 0.279999], None),
    ],
)
def test_3_pinned_values_of_trls_distillation_trainer(temperature: float, labelled: list[float], of_batch):
    generator = torch.Generator().manual_seed(42)
    student, teacher = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)
    mask = torch.tensor([[-100, 1, 2], [-100, -100, 3]]) != -100
    betas = (0.0, 0.25, 0.5, 1.0)
    means = [jsd(student[mask], teacher[mask], beta, temperature).mean().item() for beta in betas]
    assert means == pytest.approx(labelled, abs=2e-6)
    if of_batch is not None:
        # TRL divides by the batch's size where there are no labels
        sums = [jsd(student.flatten(0, 1), teacher.flatten(0, 1), beta).sum().item() / 2 for beta in betas]
        assert sums == pytest.approx(of_batch, abs=3e-6)


@pytest.mark.parametrize(
    ("temperature", "forward", "reverse", "symmetric"),
    [(1.0, 0.823520, 0.937533, 0.200979), (2.0, 0.235888, 0.229627, 0.056875), (4.0, 0.056064, None, None)],
)
def test_4_dense_divergences_at_a_temperature(temperature: float, forward, reverse, symmetric):
    for kind, expected in ((FORWARD, forward), (REVERSE, reverse), (Divergence("jsd", 0.5), symmetric)):
        if expected is not None:
            assert near(dense_divergence(STUDENT, TEACHER, kind, temperature), expected)


@pytest.mark.parametrize(("temperature", "scaled"), [(2.0, 0.943551), (4.0, 0.897021)])
def test_4_the_loss_is_scaled_by_the_squared_temperature(temperature: float, scaled: float):
    targets = Targets(torch.tensor([1]), *top(TEACHER, 4))
    assert near(distillation_loss(STUDENT, targets, LossSettings(1.0, temperature)), scaled, 2e-6)


@pytest.mark.parametrize(
    ("tail", "expected"), [("bucket", 0.820337), ("renormalise", 0.955653), ("ignore", 0.828725)]
)
def test_5_the_top_two_with_each_tail(tail, expected: float):
    assert near(sparse_divergence(STUDENT, *top(TEACHER, 2), LossSettings(tail=tail)), expected)


def test_5_the_raw_sum_follows_from_the_renormalised_one():
    ids, logprobs = top(TEACHER, 2)
    mass = logprobs.exp().sum()
    raw = mass * sparse_divergence(STUDENT, ids, logprobs, LossSettings()) + mass * mass.log()
    assert near(raw, 0.864047)


def test_5_the_reverse_divergence_of_a_sampled_token_and_its_tail():
    logprobs = TEACHER.log_softmax(-1)[:, :1]
    value = sparse_divergence(STUDENT, torch.tensor([[0]]), logprobs, LossSettings(tail="bucket", divergence=REVERSE))
    assert near(value, 0.792632)


@pytest.mark.parametrize(("tail", "expected"), [("bucket", 0.261272), ("renormalise", 0.570665)])
def test_6_a_temperature_of_two_from_stored_logs_as_distillkit(tail, expected: float):
    settings = LossSettings(1.0, 2.0, tail)
    assert near(sparse_divergence(STUDENT, *top(TEACHER, 2), settings), expected)
    assert near(
        distillation_loss(STUDENT, Targets(torch.tensor([1]), *top(TEACHER, 2)), settings), 4 * expected, 2e-6
    )


def test_7_universal_logit_distance():
    assert near(universal_logit_distance(STUDENT, TEACHER), 0.390220)
    student, teacher = logits([0.7, 0.2, 0.1]).exp(), logits([0.25, 0.4, 0.3, 0.05]).exp()
    assert near(sorted_distance(student, teacher), 0.6)


@pytest.mark.parametrize(("name", "expected"), [("skew_forward_kl", 0.645967), ("skew_reverse_kl", 0.687107)])
def test_8_skewed_by_a_tenth(name, expected: float):
    assert near(dense_divergence(STUDENT, TEACHER, Divergence(name, 0.1)), expected)


def test_9_advantages_of_minillm():
    rewards = torch.tensor([[-1.0, -2.0, -0.5]]) - torch.tensor([[-1.5, -1.0, -0.5]])
    ones = torch.ones_like(rewards)
    assert discounted_sum(rewards, 1.0)[0].tolist() == pytest.approx([-0.5, -1.0, 0.0])
    normed = discounted_sum(rewards, 1.0) / discounted_sum(ones, 1.0)
    assert normed[0].tolist() == pytest.approx([-0.166667, -0.5, 0.0], abs=1e-6)
    halved = discounted_sum(rewards, 0.5)
    assert (halved * torch.tensor([1.0, 0.5, 0.25]))[0].tolist() == pytest.approx([0.0, -0.5, 0.0])  # as TRL damps
    normed = halved / discounted_sum(ones, 0.5)
    assert normed[0].tolist() == pytest.approx([0.0, -0.666667, 0.0], abs=1e-6)


@pytest.mark.parametrize(("merge", "expected"), [("observed", [0.3, 0.15, 0.05]), ("bayesian", [0.12, 0.3, 0.18])])
def test_10_two_tokens_merged_into_one_as_gold(merge, expected: list[float]):
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    merged = merged_probabilities(probabilities, torch.tensor([0, 1]), torch.tensor([0, 0]), merge)
    assert merged.shape == (1, 3)
    assert merged[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("first", "expected"), [(0, 0.180901), (1, 0.158882)])
def test_11_golds_answer_rows_before_and_at_their_tokens(first: int, expected: float):
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    rows = slice(first, first + 2)
    assert near(universal_logit_distance(student[0, rows], teacher[0, rows]).mean(), expected)


# pytorch/torchtune tests/torchtune/modules/loss/test_kd_losses.py
TORCHTUNE_STUDENT = [
    [1.1250, -0.4102, -0.0879, -2.5000], [0.2676, 0.3535, 0.8711, -1.4688], [-0.1084, 1.6641, 0.0084, 0.1196],
    [0.5000, -0.6406, -0.2236, -1.5938], [-1.5312, -1.9219, 0.0000, -0.5039], [-1.5391, 1.5312, 0.5820, 0.2695],
    [-0.3887, 1.2188, 0.0000, 0.6055], [0.5000, 1.3828, 0.1309, -1.0312],
]  # fmt: skip
TORCHTUNE_TEACHER = [
    [-0.0381, -1.2578, -1.2031, 0.0947], [-0.7852, 0.4492, 1.5547, 0.0972], [0.8203, 0.0012, 0.7656, 0.3477],
    [-1.5781, 0.4297, 0.5977, 0.3926], [1.5156, 0.1641, 2.0781, -0.7734], [-0.5898, 0.4453, -0.7969, 0.6328],
    [0.6289, -0.8359, 0.9258, 0.2109], [0.0006, 0.5195, 3.2344, -1.5781],
]  # fmt: skip


def test_12_bfloat16_tensors_of_torchtune():
    student = torch.tensor(TORCHTUNE_STUDENT, dtype=torch.bfloat16)
    teacher = torch.tensor(TORCHTUNE_TEACHER, dtype=torch.bfloat16)
    forward, reverse = (dense_divergence(student, teacher, kind).mean() for kind in (FORWARD, REVERSE))
    entropy = torch.special.entr(teacher.float().softmax(-1)).sum(-1).mean()
    assert near(forward, 0.629284)
    assert near(reverse, 0.677486)
    # what torchtune calls forward KL keeps the teacher's entropy
    assert near(forward + entropy, 1.720878)
    assert near((forward + entropy + reverse) / 2, 1.1992, 1e-4)


def axolotl_inputs(temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As axolotl's tests/integrations/kd/test_topk_forward_kl.py draws them."""
    torch.manual_seed(0)
    student = torch.randn(2, 48, 256)
    ids = torch.randint(0, 256, (2, 40, 8))
    logprobs = torch.log_softmax(torch.randn(2, 40, 8), dim=-1)
    mask = torch.rand(2, 40, 8) < 0.8
    mask[:, 0, :] = True
    # axolotl leaves the stored logs at T = 1
    return student[:, :40].flatten(0, 1), ids.flatten(0, 1), logprobs.flatten(0, 1) * temperature, mask.flatten(0, 1)


def axolotl_sum(student: Tensor, ids: Tensor, logprobs: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Theirs is the raw sum over the listed tokens: mass * (renormalised + log mass)."""
    mass = (logprobs / temperature).exp().masked_fill(~mask, 0.0).sum(-1)
    value = sparse_divergence(student, ids.masked_fill(~mask, -1), logprobs, LossSettings(1.0, temperature))
    return (torch.xlogy(mass, mass) + mass * value).sum()


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.552325), (2.0, 0.504087)])
def test_13_random_top_eight_of_axolotl(temperature: float, expected: float):
    student, ids, logprobs, mask = axolotl_inputs(temperature)
    value = axolotl_sum(student, ids, logprobs, mask, temperature)
    assert near(value / mask.sum(), expected, 2e-6)
    if temperature == 1.0:
        assert near(value / 7, 40.4775, 1e-3)
    corrupted = axolotl_sum(student, ids, logprobs.masked_fill(~mask, 123.0), mask, temperature)
    assert near(corrupted, value.item(), 1e-4)
    half = axolotl_sum(student.bfloat16(), ids, logprobs, mask, temperature)
    assert half.item() == pytest.approx(value.item(), rel=2e-2)
    chunks = zip(*(each.chunk(4) for each in (student, ids, logprobs, mask)), strict=True)
    parts = [axolotl_sum(*chunk, temperature) for chunk in chunks]
    assert sum(parts).item() == pytest.approx(value.item(), rel=1e-5)


def test_14_early_tokens_of_trls_iw_opd():
    rewards = torch.tensor([[0.2, -0.3, 0.5], [0.4, 0.0, 0.0]])
    weights = prefix_weights(rewards, 0.5)
    assert weights[0].tolist() == pytest.approx([1.5, 1.4, 1.25])
    assert weights[1].tolist() == pytest.approx([1.5, 1.0, 1.0])
    # their student says each of four tokens equally often
    assert near(math.log(4) * (weights * rewards).sum() / 4, 0.382964)


@pytest.mark.parametrize("pad", [-torch.inf, 123.0])
def test_15_ragged_logs_from_a_server_leave_every_gradient_finite(pad: float):
    wire = [[[-2.3]], [[-1.1], [-0.4], [-3.0]]]
    logprobs, ids = torch.full((2, 3, 1), pad), torch.full((2, 3, 1), -1)
    for row, sequence in enumerate(wire):
        logprobs[row, : len(sequence)] = torch.tensor(sequence)
        ids[row, : len(sequence)] = 2
    drawn = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    settings = LossSettings(0.7, 1.0, "bucket", REVERSE)

    def step(batches: list[list[int]]) -> tuple[float, Tensor]:
        student, total = drawn.clone().requires_grad_(), 0.0
        for rows in batches:
            targets = Targets(
                torch.zeros(3 * len(rows), dtype=torch.long), ids[rows].flatten(0, 1), logprobs[rows].flatten(0, 1)
            )
            loss = distillation_loss(student[rows].flatten(0, 1), targets, settings, 6)
            loss.backward()
            total += loss.item()
        return total, student.grad

    (whole, gradient), (parts, accumulated) = step([[0, 1]]), step([[0], [1]])
    assert torch.isfinite(gradient).all()
    assert whole == pytest.approx(parts)
    torch.testing.assert_close(gradient, accumulated)
