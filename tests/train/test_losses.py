"""Each loss equals a literal transcription of its formula, values and gradients, in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from f2llm.core.types import Distill
from f2llm.model.sizes import matryoshka_dims
from f2llm.train.losses import (
    cosines,
    distill_loss,
    false_negatives,
    hard_loss,
    hidden_loss,
    in_batch_loss,
    matryoshka_weights,
    relational_loss,
    same_documents,
    same_tower_loss,
    spread_out_loss,
)

DIMS = [8, 16, 32, 48]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def literal_weight(dims: list[int], index: int) -> float:
    """1 / (n sqrt(d / dim)) for the n-th dim from the largest, d."""
    n = len(dims) - index
    return 1.0 / (n * math.sqrt(dims[-1] / dims[index]))


def literal_rows(score: Callable[[int, int], list[Tensor]], rows: int) -> Tensor:
    """Loss of each row, where `score(i, dim)` gives the exponentials of row i, the positive's first."""
    total = []
    for i in range(rows):
        losses = []
        for index, dim in enumerate(DIMS):
            scores = score(i, dim)
            losses.append(-literal_weight(DIMS, index) * torch.log(scores[0] / torch.stack(scores).sum()))
        total.append(torch.stack(losses).sum())
    return torch.stack(total)


def literal_hard(Q: Tensor, C: Tensor, present: Tensor) -> Tensor:
    def score(i: int, dim: int) -> list[Tensor]:
        return [torch.exp(cosine(Q[i, :dim], c[:dim]) / 0.05) for c, ok in zip(C[i], present[i], strict=True) if ok]

    return literal_rows(score, len(Q))


def literal_in_batch(Q: Tensor, C: Tensor, target: list[int], excluded: Tensor | None = None) -> Tensor:
    def score(i: int, dim: int) -> list[Tensor]:
        kept = [j for j in range(len(C)) if j != target[i] and (excluded is None or not excluded[i, j])]
        return [torch.exp(cosine(Q[i, :dim], C[j, :dim]) / 0.05) for j in [target[i], *kept]]

    return literal_rows(score, len(Q))


def literal_same_tower(Q: Tensor, P: Tensor, excluded: Tensor | None = None) -> Tensor:
    def score(i: int, dim: int) -> list[Tensor]:
        scores = [torch.exp(cosine(Q[i, :dim], P[i, :dim]) / 0.05)]
        for j in range(len(Q)):
            if j != i and (excluded is None or not excluded[i, j]):
                scores.append(torch.exp(cosine(Q[i, :dim], P[j, :dim]) / 0.05))
                scores.append(torch.exp(cosine(Q[i, :dim], Q[j, :dim]) / 0.05))
                scores.append(torch.exp(cosine(P[i, :dim], P[j, :dim]) / 0.05))
        return scores

    return literal_rows(score, len(Q))


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def random_mask(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def assert_equal(ours: Tensor, literal: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(ours, literal, rtol=1e-10, atol=1e-10)
    for mine, theirs in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(literal, leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def assert_rows_equal(ours: tuple[Tensor, Tensor], literal_B: Tensor, leaves: list[Tensor]) -> None:
    """The losses of the rows equal the literal ones, and the loss and its gradient their mean."""
    loss, rows_B = ours
    assert not rows_B.requires_grad
    torch.testing.assert_close(rows_B, literal_B.detach(), rtol=1e-10, atol=1e-10)
    assert_equal(loss, literal_B.mean(), leaves)


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
    assert_rows_equal(hard_loss(Q, C, present, DIMS, 0.05), literal_hard(Q, C, present), [Q, C])


def test_in_batch_loss() -> None:
    Q, P = random(6, 48, seed=2), random(6, 48, seed=3)
    ours = in_batch_loss(Q, P, torch.arange(6), DIMS, 0.05)
    assert_rows_equal(ours, literal_in_batch(Q, P, list(range(6))), [Q, P])


def test_in_batch_loss_without_repeated_documents() -> None:
    Q, P = random(4, 48, seed=4), random(4, 48, seed=5)
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    ours = in_batch_loss(Q, P, torch.arange(4), DIMS, 0.05, same)
    assert_rows_equal(ours, literal_in_batch(Q, P, list(range(4)), same), [Q, P])


@pytest.mark.parametrize(
    ("target", "candidates"), [([3, 0, 3, 6, 2], 7), ([1, 0, 1, 1, 0], 2), ([0, 0, 0], 1), ([4], 5), ([0], 1)]
)
@pytest.mark.parametrize("masked", [False, True])
def test_in_batch_loss_of_other_shapes(target: list[int], candidates: int, masked: bool) -> None:
    Q, C = random(len(target), 48, seed=12), random(candidates, 48, seed=13)
    excluded = random_mask(len(target), candidates, seed=14) if masked else None
    ours = in_batch_loss(Q, C, torch.tensor(target), DIMS, 0.05, excluded)
    assert_rows_equal(ours, literal_in_batch(Q, C, target, excluded), [Q, C])


def test_in_batch_loss_with_all_other_candidates_excluded_is_zero() -> None:
    Q, C = random(3, 48, seed=15), random(5, 48, seed=16)
    excluded = torch.ones(3, 5, dtype=torch.bool)
    loss, rows = in_batch_loss(Q, C, torch.tensor([4, 0, 4]), DIMS, 0.05, excluded)
    assert rows.tolist() == [0, 0, 0]
    assert all(not gradient.any() for gradient in torch.autograd.grad(loss, [Q, C]))
    assert excluded.all(), "the caller's mask was changed"


def test_in_batch_loss_with_the_hard_negatives_of_all_rows() -> None:
    """The denominator of row i: the positives of all rows, then the hard negatives of all rows."""
    Q, P, N = random(4, 48, seed=17), random(4, 48, seed=18), random(4, 3, 48, seed=19)

    def score(i: int, dim: int) -> list[Tensor]:
        documents = [P[i], *(P[j] for j in range(4) if j != i), *(N[j, k] for j in range(4) for k in range(3))]
        return [torch.exp(cosine(Q[i, :dim], document[:dim]) / 0.05) for document in documents]

    ours = in_batch_loss(Q, torch.cat([P, N.flatten(0, 1)]), torch.arange(4), DIMS, 0.05)
    assert_rows_equal(ours, literal_rows(score, 4), [Q, P, N])


@pytest.mark.parametrize("dims", [(16,), DIMS])
@pytest.mark.parametrize("target", [[0, 1, 2, 3, 4], [6, 2, 2, 0, 1]])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_by_hand_scales_with_what_comes_from_above(
    dims: tuple[int, ...], target: list[int], masked: bool
) -> None:
    candidates = max(target) + 1
    Q, C = random(5, max(dims), seed=10), random(candidates, max(dims), seed=11)
    excluded = random_mask(5, candidates, seed=20) if masked else None

    def squared(q: Tensor, c: Tensor) -> Tensor:
        return 3 * in_batch_loss(q, c, torch.tensor(target), dims, 0.5, excluded)[0].square()

    assert torch.autograd.gradcheck(squared, (Q, C))


def test_the_gradient_by_hand_can_be_taken_twice() -> None:
    Q, C = random(3, 48, seed=21), random(4, 48, seed=22)
    loss, _ = in_batch_loss(Q, C, torch.tensor([0, 1, 3]), DIMS, 0.05)
    first, again = (torch.autograd.grad(loss, [Q, C], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_same_tower_loss() -> None:
    Q, P = random(5, 48, seed=23), random(5, 48, seed=24)
    assert_rows_equal(same_tower_loss(Q, P, DIMS, 0.05), literal_same_tower(Q, P), [Q, P])


def test_same_tower_loss_without_repeated_texts() -> None:
    Q, P = random(5, 48, seed=25), random(5, 48, seed=26)
    excluded = random_mask(5, 5, seed=27) | torch.eye(5, dtype=torch.bool)
    ours = same_tower_loss(Q, P, DIMS, 0.05, excluded)
    assert_rows_equal(ours, literal_same_tower(Q, P, excluded), [Q, P])


def test_same_tower_loss_of_one_row_is_zero() -> None:
    Q, P = random(1, 48, seed=28), random(1, 48, seed=29)
    loss, rows = same_tower_loss(Q, P, DIMS, 0.05)
    assert loss.item() == 0
    assert rows.tolist() == [0]


@pytest.mark.parametrize("count", [2, 5, 8, 11])
def test_spread_out_loss(count: int) -> None:
    E = random(count, 8, seed=30)
    pairs = [cosine(E[i], E[j]) ** 2 for i in range(count) for j in range(count) if i != j]
    assert_equal(spread_out_loss(E), torch.stack(pairs).mean(), [E])


@pytest.mark.parametrize("count", [0, 1])
def test_spread_out_loss_without_pairs_is_zero(count: int) -> None:
    assert spread_out_loss(random(count, 8, seed=31)).item() == 0


def test_cosines_have_no_gradient() -> None:
    Q, C = random(3, 8, seed=32), random(4, 8, seed=33)
    ours = cosines(Q, C)
    assert not ours.requires_grad
    torch.testing.assert_close(ours, torch.stack([torch.stack([cosine(q, c) for c in C]) for q in Q]).detach())


@pytest.mark.parametrize("margin", [-0.1, 0.0, 0.1])
def test_false_negatives(margin: float) -> None:
    own, target = cosines(random(6, 8, seed=34), random(9, 8, seed=35)), [8, 0, 3, 3, 5, 1]
    literal = [
        [j != t and bool(row[j] > row[t] - margin) for j in range(9)] for row, t in zip(own, target, strict=True)
    ]
    assert false_negatives(own, torch.tensor(target), margin).tolist() == literal
    assert any(map(any, literal))


def test_a_cosine_equal_to_the_threshold_stays_a_negative() -> None:
    own = torch.tensor([[0.5, 0.25, 0.375, 0.5]])
    assert false_negatives(own, torch.tensor([0]), 0.0).tolist() == [[False] * 4]
    assert false_negatives(own, torch.tensor([0]), 0.125).tolist() == [[False, False, False, True]]


def test_same_documents() -> None:
    found = same_documents(torch.tensor([7, 2, 7]), torch.tensor([7, 2, 5, 7]))
    assert found.tolist() == [[True, False, False, True], [False, True, False, False], [True, False, False, True]]


def test_masks_combine_with_the_in_batch_loss() -> None:
    Q, C, target = random(4, 48, seed=36), random(6, 48, seed=37), torch.tensor([0, 1, 2, 3])
    same = same_documents(torch.tensor([1, 2, 1, 3]), torch.tensor([1, 2, 1, 3, 3, 5]))
    excluded = same | false_negatives(cosines(Q, C), target, 0.0)
    ours = in_batch_loss(Q, C, target, DIMS, 0.05, excluded)
    assert_rows_equal(ours, literal_in_batch(Q, C, target.tolist(), excluded), [Q, C])


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


def over_dims(of_dim: Callable[[int], Tensor], dims: list[int]) -> Tensor:
    return torch.stack([literal_weight(dims, index) * of_dim(dim) for index, dim in enumerate(dims)]).sum()


@pytest.mark.parametrize("dims", [[8], [2, 4, 8]])
@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_distill_loss_at_nested_dims(kind: Distill, dims: list[int]) -> None:
    E, T = random(7, 8, seed=6), random(7, 12, seed=7).detach()
    groups = [torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([3, 4, 5])]

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b) ** 2).mean() if kind == "mse" else 1 - cosine(a, b)

    def at(dim: int) -> Tensor:
        parts = [torch.stack([distance(E[i, :dim], T[i, :dim]) for i in group]).mean() for group in groups]
        return torch.stack(parts).sum()

    assert_equal(distill_loss(E, T, groups, kind, dims), over_dims(at, dims), [E])


@pytest.mark.parametrize("dims", [[8], [2, 4, 8]])
def test_relational_distillation(dims: list[int]) -> None:
    """All pairs of distinct texts; the teacher is narrower here, and always whole."""
    E, T = random(5, 8, seed=6), random(5, 3, seed=7).detach()
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]

    def at(dim: int) -> Tensor:
        differences = [cosine(E[i, :dim], E[j, :dim]) - cosine(T[i], T[j]) for i, j in pairs]
        return (torch.stack(differences) ** 2).mean()

    assert_equal(distill_loss(E, T, [], "relational", dims), over_dims(at, dims), [E])
    assert relational_loss(E[:1], T[:1], dims).item() == 0.0


def test_hidden_states() -> None:
    H, T = random(12, 8, seed=1), random(12, 8, seed=2).detach()
    literal = torch.stack([1 - cosine(h, t) for h, t in zip(H, T, strict=True)]).mean()
    assert_equal(hidden_loss(H.view(4, 3, 8), T.view(4, 3, 8)), literal, [H])
    torch.testing.assert_close(hidden_loss(3 * T.view(4, 3, 8), T.view(4, 3, 8)), H.new_zeros(()))
