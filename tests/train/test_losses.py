"""Each loss equals a literal transcription of its formula, values and gradients, in float64."""

import math

import pytest
import torch
from torch import Tensor

from f2llm.model.sizes import matryoshka_dims
from f2llm.train.losses import distill_loss, hard_loss, in_batch_loss, matryoshka_weights

DIMS = [8, 16, 32, 48]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def literal_weight(dims: list[int], index: int) -> float:
    """1 / (n sqrt(d / dim)) for the n-th dim from the largest, d."""
    n = len(dims) - index
    return 1.0 / (n * math.sqrt(dims[-1] / dims[index]))


def literal_hard(Q: Tensor, C: Tensor, present: Tensor) -> Tensor:
    total = Q.new_zeros(())
    for index, dim in enumerate(DIMS):
        rows = []
        for q, candidates, there in zip(Q, C, present, strict=True):
            scores = [torch.exp(cosine(q[:dim], c[:dim]) / 0.05) for c, ok in zip(candidates, there, strict=True) if ok]
            rows.append(-torch.log(scores[0] / torch.stack(scores).sum()))
        total = total + literal_weight(DIMS, index) * torch.stack(rows).mean()
    return total


def literal_in_batch(Q: Tensor, P: Tensor, excluded: Tensor | None = None) -> Tensor:
    total = Q.new_zeros(())
    for index, dim in enumerate(DIMS):
        rows = []
        for i, q in enumerate(Q):
            kept = [j for j in range(len(P)) if j == i or excluded is None or not excluded[i, j]]
            scores = {j: torch.exp(cosine(q[:dim], P[j][:dim]) / 0.05) for j in kept}
            rows.append(-torch.log(scores[i] / torch.stack(list(scores.values())).sum()))
        total = total + literal_weight(DIMS, index) * torch.stack(rows).mean()
    return total


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def assert_equal(ours: Tensor, literal: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(ours, literal, rtol=1e-10, atol=1e-10)
    for mine, theirs in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(literal, leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def test_weights_are_those_of_the_paper() -> None:
    for hidden, expected in {
        320: [1, 0.447, 0.211, 0.112, 0.063, 0.037, 0.023],
        1024: [1, 0.354, 0.167, 0.088, 0.05, 0.030, 0.018, 0.011],
    }.items():
        weights = matryoshka_weights(matryoshka_dims(hidden))
        assert weights[::-1] == pytest.approx(expected, abs=6e-4)


def test_hard_loss() -> None:
    Q, C = random(5, 48, seed=0), random(5, 4, 48, seed=1)
    present = torch.tensor([[True, True, True, True]] * 3 + [[True, False, True, False], [True, False, False, False]])
    assert_equal(hard_loss(Q, C, present, DIMS, 0.05), literal_hard(Q, C, present), [Q, C])


def test_in_batch_loss() -> None:
    Q, P = random(6, 48, seed=2), random(6, 48, seed=3)
    assert_equal(in_batch_loss(Q, P, DIMS, 0.05), literal_in_batch(Q, P), [Q, P])


def test_in_batch_loss_without_repeated_documents() -> None:
    Q, P = random(4, 48, seed=4), random(4, 48, seed=5)
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    assert_equal(in_batch_loss(Q, P, DIMS, 0.05, same), literal_in_batch(Q, P, same), [Q, P])


@pytest.mark.parametrize("dims", [(16,), DIMS])
def test_the_gradient_by_hand_scales_with_what_comes_from_above(dims: tuple[int, ...]) -> None:
    Q, P = random(5, max(dims), seed=10), random(5, max(dims), seed=11)
    same = torch.zeros(5, 5, dtype=torch.bool)
    same[1, 3] = True
    assert torch.autograd.gradcheck(lambda q, p: 3 * in_batch_loss(q, p, dims, 0.5, same).square(), (Q, P))


def test_distill_loss() -> None:
    """Mean over all elements of a group, summed over the groups; the teacher is cut to the student's dims."""
    E, T = random(7, 8, seed=6), random(7, 12, seed=7).detach()
    query, positive, negatives = torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([3, 4, -1, 5])
    groups = [query, positive, torch.tensor([3, 4, 5])]
    literal = sum((((E[g] - T[g][:, :8]) ** 2).mean() for g in groups), start=E.new_zeros(()))
    assert_equal(distill_loss(E, T, [query, positive, negatives]), literal, [E])


def test_distill_loss_without_negatives() -> None:
    E, T = random(3, 8, seed=8), random(3, 8, seed=9).detach()
    only = distill_loss(E, T, [torch.tensor([0, 1, 2]), torch.tensor([-1, -1])])
    torch.testing.assert_close(only, ((E - T) ** 2).mean())
