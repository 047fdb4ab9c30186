"""The loss of a step equals a literal transcription of the paper's, and each option changes what it says, no more."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from f2llm.core.errors import ConfigError
from f2llm.core.types import TaskType
from f2llm.train.batch import PackedBatch
from f2llm.train.metrics import PARTS
from f2llm.train.objective import LossSettings, Parts, make_objective

DIMS = (8, 16, 24)
PAPER = LossSettings(dims=DIMS)
# One query and one positive come twice; rows lack negatives; a negative is another row's positive, or a query.
QUERY, POSITIVE = [0, 1, 2, 3, 0], [4, 5, 4, 6, 7]
NEGATIVES = [[5, 8], [8, -1], [6, -1], [-1, -1], [8, 2]]
ROWS = range(len(QUERY))
Pairs = list[tuple[Tensor, Tensor]]


def make_batch(source: str = "pairs") -> PackedBatch:
    query, positive, negatives = (torch.tensor(x) for x in (QUERY, POSITIVE, NEGATIVES))
    none = torch.zeros(0, dtype=torch.long)
    return PackedBatch(source, none, [0], np.arange(9), query, positive, negatives, none, 0)


def embeddings() -> Tensor:
    return torch.randn(9, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def teacher() -> Tensor:
    return torch.randn(9, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loss_of(
    E: Tensor, settings: LossSettings = PAPER, task: TaskType = "retrieval", T: Tensor | None = None, **options: Any
) -> tuple[Tensor, Parts]:
    source = options.pop("source", "pairs")
    return make_objective(settings, make_batch(source), task, T, **options)(E)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def cross_entropy(own: tuple[Tensor, Tensor], others: Pairs, temperature: float = 0.05) -> Tensor:
    """-log of the share of `own` among all pairs, at each dim from the largest, weighted 1 / (n sqrt(D / dim))."""
    losses = []
    for n, dim in enumerate(reversed(DIMS), start=1):
        scores = torch.stack([torch.exp(cosine(a[:dim], b[:dim]) / temperature) for a, b in [own, *others]])
        losses.append(-torch.log(scores[0] / scores.sum()) / (n * math.sqrt(DIMS[-1] / dim)))
    return torch.stack(losses).sum()


def mean_of_rows(E: Tensor, others: Callable[[int], Pairs], temperature: float = 0.05) -> Tensor:
    return torch.stack([cross_entropy((E[QUERY[i]], E[POSITIVE[i]]), others(i), temperature) for i in ROWS]).mean()


def hard(E: Tensor, temperature: float = 0.05) -> Tensor:
    return mean_of_rows(E, lambda i: [(E[QUERY[i]], E[n]) for n in NEGATIVES[i] if n >= 0], temperature)


def in_batch(
    E: Tensor, temperature: float = 0.05, *, without: Callable[[int, int], bool] = lambda i, c: False
) -> Tensor:
    """Over the positives of the other rows, `without` those documents."""

    def others(i: int) -> Pairs:
        return [(E[QUERY[i]], E[POSITIVE[j]]) for j in ROWS if j != i and not without(i, POSITIVE[j])]

    return mean_of_rows(E, others, temperature)


def distill(E: Tensor, T: Tensor) -> Tensor:
    groups = [QUERY, POSITIVE, [n for row in NEGATIVES for n in row if n >= 0]]
    return torch.stack(
        [torch.stack([((E[i] - T[i, :24]) ** 2).mean() for i in group]).mean() for group in groups]
    ).sum()


def spread_out(E: Tensor, ids: set[int]) -> Tensor:
    return torch.stack([cosine(E[a], E[b]) ** 2 for a in ids for b in ids if a != b]).mean()


def assert_equal(ours: Tensor, literal: Tensor, E: Tensor) -> None:
    torch.testing.assert_close(ours, literal, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(x, E)[0] for x in (ours, literal)), rtol=1e-9, atol=1e-10)


def only_in_batch_becomes(settings: LossSettings, literal: Tensor, E: Tensor, T: Tensor | None = None) -> None:
    """The total is that of the paper with another in-batch term; the other terms keep every bit."""
    total, parts = loss_of(E, settings, T=T)
    expected = hard(E) + literal if T is None else hard(E) + literal + distill(E, T)
    assert_equal(total, expected, E)
    default = loss_of(E, T=T)[1]
    assert parts.terms.keys() == default.terms.keys()
    assert [name for name in parts.terms if not torch.equal(parts.terms[name], default.terms[name])] == ["in_batch"]
    assert torch.equal(parts.rows_B, default.rows_B)


@pytest.mark.parametrize("weight", [None, 1.0, 0.3])
def test_retrieval_is_hard_plus_in_batch_plus_weighted_distillation(weight: float | None) -> None:
    E, T = embeddings(), teacher()
    settings, expected = PAPER, hard(E) + in_batch(E)
    if weight is not None:
        settings, expected = replace(PAPER, distill_weight=weight), expected + weight * distill(E, T)
    assert_equal(loss_of(E, settings, T=None if weight is None else T)[0], expected, E)


@pytest.mark.parametrize("task", ["clustering", "classification"])
def test_other_tasks_have_no_in_batch_loss_whatever_its_options(task: TaskType) -> None:
    E, T = embeddings(), teacher()
    for settings in (
        PAPER,
        LossSettings(DIMS, mask_duplicates=True, false_negative_margin=0.0, share_hard_negatives=True),
        LossSettings(DIMS, same_tower=True, detach_across_processes=True),
    ):
        assert_equal(loss_of(E, settings, task, processes=2)[0], hard(E), E)
        total, parts = loss_of(E, settings, task, T)
        assert_equal(total, hard(E) + distill(E, T), E)
        assert parts.terms.keys() == {"hard", "distill"}


@pytest.mark.parametrize("task", get_args(TaskType))
def test_terms_add_up_and_rows_average_to_the_hard_term(task: TaskType) -> None:
    E = embeddings()
    total, parts = loss_of(E, replace(PAPER, spread_out_weight=0.7), task, teacher())
    torch.testing.assert_close(torch.stack(list(parts.terms.values())).sum(), total.detach())
    torch.testing.assert_close(parts.rows_B.mean(), parts.terms["hard"])
    assert parts.rows_B.shape == (len(QUERY),)
    assert parts.rows_B[3] == 0, "a row without negatives has nothing to tell apart"
    assert not any(x.requires_grad for x in (parts.rows_B, *parts.terms.values()))


def test_repeated_documents_are_negatives_unless_masked() -> None:
    E = embeddings()
    settings = replace(PAPER, mask_duplicates=True)
    only_in_batch_becomes(settings, in_batch(E, without=lambda i, c: c == POSITIVE[i]), E)


@pytest.mark.parametrize("margin", [-0.1, 0.05, 0.2])
@pytest.mark.parametrize("taught", [False, True])
def test_documents_close_to_the_query_are_no_negatives(margin: float, taught: bool) -> None:
    """As the teacher sees it, in all its dims; without one, as the model does."""
    E, T = embeddings(), teacher()
    judge = T if taught else E.detach()

    def close(i: int, c: int) -> bool:
        q = judge[QUERY[i]]
        return bool(cosine(q, judge[c]) > cosine(q, judge[POSITIVE[i]]) - margin)

    assert len({close(i, c) for i in ROWS for c in POSITIVE}) == 2
    settings = replace(PAPER, false_negative_margin=margin)
    only_in_batch_becomes(settings, in_batch(E, without=close), E, T if taught else None)


def test_shared_hard_negatives_count_once_each_and_never_against_themselves() -> None:
    E = embeddings()
    shared = sorted({n for row in NEGATIVES for n in row if n >= 0} - set(POSITIVE))
    assert shared == [2, 8]

    def others(i: int) -> Pairs:
        documents = [POSITIVE[j] for j in ROWS if POSITIVE[j] != POSITIVE[i]] + shared
        return [(E[QUERY[i]], E[c]) for c in documents]

    only_in_batch_becomes(replace(PAPER, share_hard_negatives=True), mean_of_rows(E, others), E)


@pytest.mark.parametrize("masked", [False, True])
def test_same_tower_adds_the_other_queries_and_the_other_positives(masked: bool) -> None:
    E = embeddings()

    def others(i: int) -> Pairs:
        found: Pairs = []
        for j in ROWS:
            if QUERY[j] == QUERY[i] or (masked and POSITIVE[j] == POSITIVE[i]):
                continue
            q, p = (E[QUERY[i]], E[QUERY[j]]), (E[POSITIVE[i]], E[POSITIVE[j]])
            found += [(q[0], p[1]), q, p]
        return found

    only_in_batch_becomes(replace(PAPER, same_tower=True, mask_duplicates=masked), mean_of_rows(E, others), E)


def test_spread_out_is_one_more_term_over_distinct_queries_and_distinct_documents() -> None:
    E = embeddings()
    total, parts = loss_of(E, replace(PAPER, spread_out_weight=0.5))
    expected = 0.5 * (spread_out(E, set(QUERY)) + spread_out(E, {2, 4, 5, 6, 7, 8}))
    assert_equal(total, hard(E) + in_batch(E) + expected, E)
    torch.testing.assert_close(parts.terms["spread_out"], expected.detach())
    assert loss_of(E)[1].terms.keys() == {"hard", "in_batch"}


def test_a_source_may_have_its_own_temperature() -> None:
    E = embeddings()
    settings = replace(PAPER, temperature=0.1, temperatures={"short": 0.02})
    for source, temperature in (("short", 0.02), ("pairs", 0.1)):
        total, _ = loss_of(E, settings, source=source)
        assert_equal(total, hard(E, temperature) + in_batch(E, temperature), E)


def test_detached_positives_matter_only_on_several_processes() -> None:
    E = embeddings()
    settings = replace(PAPER, detach_across_processes=True)
    assert_equal(loss_of(E, settings, processes=1)[0], hard(E) + in_batch(E), E)

    def others(i: int) -> Pairs:
        return [(E[QUERY[i]], E[POSITIVE[j]].detach()) for j in ROWS if j != i]

    rows = [cross_entropy((E[QUERY[i]], E[POSITIVE[i]].detach()), others(i)) for i in ROWS]
    total, parts = loss_of(E, settings, processes=2)
    assert_equal(total, hard(E) + torch.stack(rows).mean(), E)
    assert torch.equal(parts.terms["in_batch"], loss_of(E)[1].terms["in_batch"])


def test_two_options_that_fill_the_same_place_are_refused() -> None:
    with pytest.raises(ConfigError, match="same_tower and share_hard_negatives cannot be combined"):
        LossSettings(dims=DIMS, same_tower=True, share_hard_negatives=True)


def test_hidden_states_are_split_off_and_add_a_term() -> None:
    """[N, D + L D] of the student, [N, D_T + L D] of the teacher: without the term, all is as without the states."""
    E, T = embeddings(), teacher()
    H, G = (torch.randn(9, 2 * 24, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (2, 3))
    H.requires_grad_()
    settings = replace(PAPER, hidden_states=2, distill_hidden_weight=0.5)
    total, parts = loss_of(torch.cat([E, H], 1), settings, T=torch.cat([T, G], 1))
    plain, expected = loss_of(E, T=T)
    cosines = [cosine(H[n, i : i + 24], G[n, i : i + 24]) for n in range(9) for i in (0, 24)]
    hidden = 0.5 * (1 - torch.stack(cosines).mean())
    torch.testing.assert_close(parts.terms["hidden"], hidden)
    torch.testing.assert_close(total, plain + hidden)
    assert all(torch.equal(parts.terms[name], term) for name, term in expected.terms.items())
    torch.testing.assert_close(*(torch.autograd.grad(x, H, retain_graph=True)[0] for x in (total, hidden)))
    torch.testing.assert_close(*(torch.autograd.grad(x, E, retain_graph=True)[0] for x in (total, plain)))
    parts = loss_of(torch.cat([E, H], 1), settings)[1]  # without a teacher, as in validation
    assert parts.terms.keys() == {"hard", "in_batch"}


def test_other_ways_to_distill_change_that_term_only() -> None:
    E, T = embeddings(), teacher()
    default = loss_of(E, T=T)[1]
    for settings in (
        replace(PAPER, distill="cosine"),
        replace(PAPER, distill="relational"),
        replace(PAPER, distill_matryoshka=True),
    ):
        parts = loss_of(E, settings, T=T)[1]
        changed = [name for name in parts.terms if not torch.equal(parts.terms[name], default.terms[name])]
        assert changed == ["distill"]


def test_every_term_is_watched() -> None:
    """A term that `PARTS` lacks would be in metrics.jsonl, but in no tracker and in no picture."""
    E, H = embeddings(), torch.randn(9, 2 * 24, dtype=torch.float64)
    settings = replace(PAPER, hidden_states=2, distill_hidden_weight=0.5, spread_out_weight=0.1)
    parts = loss_of(torch.cat([E, H], 1), settings, T=torch.cat([teacher(), H], 1))[1]
    assert tuple(parts.terms) == PARTS
