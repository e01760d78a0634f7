"""Our losses and TRL's on the same inputs, to 1e-5.

TRL is not among the project's requirements: these tests run where it can be imported, for instance by the Python of
the benchmark's peers, ``/tmp/peers/trl/bin/python -m pytest``.
"""

import os

import pytest
import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from distill.divergences import dense_divergence
from distill.foreign import universal_logit_distance
from distill.loss_settings import Divergence, LossSettings
from distill.losses import Targets, dense_distillation_loss, distillation_loss, sparse_divergence

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
WHY = "TRL is not installed here; docs/losses.md says how to run this"
gkd, gold, server = (
    pytest.importorskip(f"trl.experimental.{name}", reason=WHY)
    for name in ("gkd", "gold.gold_trainer", "server_distillation.server_distillation_trainer")
)

VOCABULARY = 97


def inputs(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of both sides (2, 9, V), and labels (2, 9) of which some are not trained on."""
    chance = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(2, 9, VOCABULARY, generator=chance) for _ in range(2))
    labels = torch.randint(VOCABULARY, (2, 9), generator=chance)
    labels[0, :4] = labels[1, :2] = -100
    return student, teacher, labels


def gradient(loss: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    return loss.detach(), torch.autograd.grad(loss, at)[0]


@pytest.mark.parametrize("items", [None, 23], ids=["mean", "divided by the step's labels"])
@pytest.mark.parametrize("temperature", [1.0, 0.9, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_generalised_jensen_shannon_divergence_is_gkds(beta: float, temperature: float, items: int | None):
    student, teacher, labels = inputs(int(10 * beta))
    student.requires_grad_()
    theirs = gkd.GKDTrainer.generalized_jsd_loss(
        student, teacher, labels, beta=beta, temperature=temperature, num_items_in_batch=items
    )
    keep = labels != -100
    settings = LossSettings(1.0, temperature, "bucket", Divergence("jsd", beta))
    none = torch.zeros(int(keep.sum()), 0)
    targets = Targets(labels[keep], none.long(), none)
    ours = dense_distillation_loss(student[keep], teacher[keep], targets, settings, items) / temperature**2
    for a, b in zip(gradient(ours, student), gradient(theirs, student), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_tail_is_one_class_as_in_the_server_distillation_trainer(k: int):
    student, teacher, labels = inputs(k)
    keep = labels != -100
    q, p = student[keep].log_softmax(-1), teacher[keep].log_softmax(-1)
    top, ids = p.topk(k)
    valid = torch.ones_like(ids, dtype=torch.bool)
    p_cells, q_cells = (server._add_tail_bucket(cells, valid)[0] for cells in (top, q.gather(-1, ids)))
    for name, (from_, to) in {"forward_kl": (p_cells, q_cells), "reverse_kl": (q_cells, p_cells)}.items():
        theirs = nn.functional.kl_div(to, from_, reduction="none", log_target=True).sum(-1)
        settings = LossSettings(1.0, 1.0, "bucket", Divergence(name))
        torch.testing.assert_close(sparse_divergence(student[keep], ids, top, settings), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wider", [0, 40], ids=["one vocabulary", "a larger one"])
def test_universal_logit_distance_is_that_of_gold(wider: int):
    chance = torch.Generator().manual_seed(wider)
    student, teacher = (torch.randn(1, 9, size, generator=chance) for size in (VOCABULARY, VOCABULARY + wider))
    labels = torch.randint(VOCABULARY, (1, 9), generator=chance)
    labels[0, :2] = -100
    config = gold.GOLDConfig(
        output_dir="unused", use_cpu=True, bf16=False, use_extended_uld=False, uld_token_merge_strategy="observed",
        uld_crossentropy_weight=0.0, uld_skip_student_eos=False, uld_skip_teacher_eos=False,
    )  # fmt: skip
    theirs = gold.ULDLoss(config)(student, teacher, labels, labels, labels, labels)
    ours = universal_logit_distance(student[0, 2:], teacher[0, 2:]).mean()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_hard_label_is_that_of_the_model_that_sft_trains():
    student, _, labels = inputs(3)
    shifted = nn.functional.pad(labels, (1, 0), value=-100)[:, :-1]
    theirs = ForCausalLMLoss(student, shifted, VOCABULARY, num_items_in_batch=13)
    keep = labels[:, :-1] != -100
    none = torch.zeros(int(keep.sum()), 0)
    targets = Targets(labels[:, :-1][keep], none.long(), none)
    ours = distillation_loss(student[:, :-1][keep], targets, LossSettings(0.0), 13)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_dense_and_sparse_meet_where_all_tokens_are_listed():
    student, teacher, labels = inputs(8)
    keep = labels != -100
    logs, ids = teacher[keep].log_softmax(-1).topk(VOCABULARY)
    kind = Divergence("jsd", 0.3)
    sparse = sparse_divergence(student[keep], ids, logs, LossSettings(1.0, 1.0, "ignore", kind))
    torch.testing.assert_close(sparse, dense_divergence(student[keep], teacher[keep], kind), atol=1e-5, rtol=1e-5)
