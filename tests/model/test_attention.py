import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from f2llm.model.attention import AttentionPlan

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def cumulated(sizes: list[int]) -> list[int]:
    return [0, *torch.tensor(sizes).cumsum(0).tolist()]


def masked(query: Tensor, key: Tensor, value: Tensor, sizes: list[int]) -> Tensor:
    """The same attention over the whole pack at once, with one block-diagonal causal mask."""
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    mask = (owner[:, None] == owner) & torch.ones(len(owner), len(owner)).tril().bool()
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)[0].transpose(0, 1).flatten(1)


@settings(deadline=None, max_examples=50)
@given(sizes=lengths)
def test_any_order_of_lengths_equals_one_masked_attention(sizes: list[int]) -> None:
    torch.manual_seed(0)
    tokens = sum(sizes)
    query, key, value = torch.randn(tokens, 4, 8), torch.randn(tokens, 2, 8), torch.randn(tokens, 2, 8)
    found = AttentionPlan.from_cu_seqlens(cumulated(sizes)).attend(query, key, value)
    torch.testing.assert_close(found, masked(query, key, value, sizes), atol=1e-6, rtol=1e-5)


@given(sizes=lengths)
def test_the_plan_covers_the_pack(sizes: list[int]) -> None:
    plan = AttentionPlan.from_cu_seqlens(cumulated(sizes))
    assert plan.tokens == sum(sizes)
    assert [run.length for run in plan.runs for _ in range(run.sequences)] == sizes
    assert plan.positions(torch.device("cpu")).tolist() == [position for size in sizes for position in range(size)]


def test_a_sorted_pack_has_one_run_per_length() -> None:
    assert [run[:2] for run in AttentionPlan.from_cu_seqlens([0, 5, 10, 12, 14, 15]).runs] == [(2, 5), (2, 2), (1, 1)]


@pytest.mark.parametrize("wrong", [[], [0], [1, 3], [0, 3, 3], [0, 4, 2]])
def test_impossible_boundaries_are_refused(wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="cu_seqlens"):
        AttentionPlan.from_cu_seqlens(wrong)
