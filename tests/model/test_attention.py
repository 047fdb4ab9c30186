from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from f2llm.model import attention
from f2llm.model.attention import AttentionPlan
from f2llm.model.decoder import Decoder
from tests.conftest import SMALL, random_decoder

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


class Call(NamedTuple):
    """Lengths that one call of the kernel was given."""

    asking: list[int]
    seen: list[int]


class LiteralVarlen:
    """`varlen_attn` sequence by sequence, with the checks of the CUDA kernel; keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int,
        *, window_size: tuple[int, int], enable_gqa: bool,
    ) -> Tensor:  # fmt: skip
        asking, seen = ([b - a for a, b in pairwise(ends.tolist())] for ends in (ends_q, ends_k))
        self.calls.append(Call(asking, seen))
        for ends in (ends_q, ends_k):
            assert ends.dtype == torch.int32 and ends.is_contiguous() and ends[0] == 0  # noqa: PT018
        assert query.shape[0] == sum(asking)
        assert key.shape == value.shape
        assert key.shape[0] == sum(seen)
        assert key.shape[2] == query.shape[2] and query.shape[1] % key.shape[1] == 0  # noqa: PT018
        assert {type(max_q), type(max_k)} == {int}
        assert (max_q, max_k) == (max(asking), max(seen))
        assert query.dtype == key.dtype == value.dtype
        assert all(x.stride(-1) == 1 for x in (query, key, value))
        assert all(0 < q <= k for q, k in zip(asking, seen, strict=True))
        assert window_size == (-1, 0)
        assert enable_gqa
        pieces = zip(query.split(asking), key.split(seen), value.split(seen), strict=True)
        return torch.cat([causal_from_the_end(*piece) for piece in pieces])


def causal_from_the_end(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The queries are the last tokens of the keys; each sees what is not after it."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    places = torch.arange(len(key)) - (len(key) - len(query))
    scores = scores.masked_fill(places[None, :] > torch.arange(len(query))[:, None], float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


@contextmanager
def as_on_cuda() -> Iterator[LiteralVarlen]:
    """The path of GPUs, with the kernel replaced."""
    literal = LiteralVarlen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_has_varlen", lambda query: True)
        patch.setattr(attention, "varlen_attn", literal)
        yield literal


def tensors_of(plan: AttentionPlan, last: bool, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sequences = sum(run.sequences for run in plan.runs) - (plan.prefix > 0)
    shapes = ((sequences if last else plan.tokens, 4, 8), (plan.tokens, 2, 8), (plan.tokens, 2, 8))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def with_gradients(plan: AttentionPlan, last: bool, tensors: list[Tensor]) -> list[Tensor]:
    out = (plan.attend_last if last else plan.attend)(*tensors)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), tensors)]


@settings(deadline=None, max_examples=60)
@given(sizes=lengths, continuations=st.integers(0, 11), last=st.booleans())
def test_one_call_for_all_sequences_equals_one_call_a_run(sizes: list[int], continuations: int, last: bool) -> None:
    plan = AttentionPlan.from_cu_seqlens(cumulated(sizes), min(continuations, len(sizes) - 1))
    tensors = tensors_of(plan, last)
    expected = with_gradients(plan, last, tensors)
    with as_on_cuda():
        found = with_gradients(plan, last, tensors)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("last", [False, True])
def test_one_call_equals_one_call_a_run_in_float32(last: bool) -> None:
    plan = AttentionPlan.from_cu_seqlens([0, 5, 6, 7, 10, 13, 20], 3)
    tensors = tensors_of(plan, last, torch.float32)
    expected = with_gradients(plan, last, tensors)
    with as_on_cuda():
        found = with_gradients(plan, last, tensors)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-5)


def test_sequences_that_continue_the_prefix_see_it_and_no_sequence_is_without_a_query() -> None:
    plan = AttentionPlan.from_cu_seqlens([0, 5, 6, 9, 13], 2)
    with as_on_cuda() as kernel:
        for last in (False, True):
            with_gradients(plan, last, tensors_of(plan, last))
    assert kernel.calls == [Call([5, 1, 3, 4], [5, 6, 8, 4]), Call([1, 1, 1], [6, 8, 4])]


@pytest.mark.parametrize("last", [False, True])
def test_many_continuations_add_their_gradients_without_loss_in_bfloat16(last: bool) -> None:
    """The gradient of a row that is selected many times is added up in half precision on GPUs, 256 + 1 = 256 there."""
    plan = AttentionPlan.from_cu_seqlens([0, *range(2, 303)], 300)
    x = torch.ones(302, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    places = plan._varlen(last, x.device).places
    assert places is not None
    assert len(places.unique()) == len(places) == 2 * 300 + 300 + (0 if last else 2)
    plan._with_prefix(x).index_select(0, places).sum().backward()
    assert x.grad is not None
    assert x.grad[:2].unique().tolist() == [300]  # 301 of them, the prefix itself included, round to that too
    assert x.grad[2:].unique().tolist() == [1]


def test_offsets_are_made_once_for_all_layers() -> None:
    plan = AttentionPlan.from_cu_seqlens([0, 5, 6, 9], 2)
    here = torch.device("cpu")
    assert plan._varlen(True, here) is plan._varlen(True, here)
    assert plan._varlen(True, here) is not plan._varlen(False, here)


@pytest.mark.parametrize("continuations", [0, 3])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_decoder_on_the_path_of_gpus_gives_the_same(continuations: int, recompute: bool) -> None:
    decoder = random_decoder(SMALL).double()
    decoder.checkpoint_activations = recompute
    cu = [0, 5, 6, 8, 10, 14, 21]
    ids = torch.randint(0, SMALL.vocab_size, (cu[-1],), generator=torch.Generator().manual_seed(1))
    expected = embedded(decoder, ids, cu, continuations)
    with as_on_cuda() as kernel:
        found = embedded(decoder, ids, cu, continuations)
    assert len(kernel.calls) == SMALL.layers * (1 + recompute)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-9)


def embedded(decoder: Decoder, ids: Tensor, cu: list[int], continuations: int) -> list[Any]:
    """Embeddings, and the gradient of every parameter."""
    decoder.zero_grad()
    E_ND = decoder(ids, cu, last_token_only=True, continuations=continuations)
    (E_ND * torch.linspace(-1, 1, E_ND.numel(), dtype=E_ND.dtype).view_as(E_ND)).sum().backward()
    return [E_ND.detach(), *(p.grad.clone() for p in decoder.parameters() if p.grad is not None)]


class OnGpu(NamedTuple):
    """What `_has_varlen` looks at in a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    is_cuda: bool = True
    device: str = "cuda"


@pytest.mark.parametrize(
    ("query", "capability", "expected"),
    [
        (OnGpu((5, 4, 128), torch.bfloat16), (9, 0), True),
        (OnGpu((5, 4, 128), torch.float16), (8, 0), True),
        (OnGpu((5, 4, 128), torch.float16), (7, 5), False),
        (OnGpu((5, 4, 128), torch.float32), (9, 0), False),
        (OnGpu((5, 4, 20), torch.bfloat16), (9, 0), False),
        (OnGpu((5, 4, 264), torch.bfloat16), (9, 0), False),
        (OnGpu((5, 4, 128), torch.bfloat16, is_cuda=False), (9, 0), False),
    ],
)
def test_the_kernel_gets_only_what_it_takes(
    query: OnGpu, capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert attention._has_varlen(query) is expected  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; none here")
@pytest.mark.parametrize("last", [False, True])
def test_the_kernel_itself_equals_one_call_a_run(last: bool) -> None:
    plan = AttentionPlan.from_cu_seqlens([0, 40, 41, 43, 110, 113, 320], 3)
    if not attention._has_varlen(torch.empty(1, 4, 8, dtype=torch.bfloat16, device="cuda")):
        pytest.skip("needs an Ampere GPU or a newer one")
    expected = with_gradients(plan, last, tensors_of(plan, last))
    halves = [x.detach().to("cuda", torch.bfloat16).requires_grad_() for x in tensors_of(plan, last)]
    for mine, theirs in zip(with_gradients(plan, last, halves), expected, strict=True):
        error = (mine.double().cpu() - theirs).norm() / theirs.norm()
        assert error < 0.02
