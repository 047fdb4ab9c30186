"""The parts with gradients by hand equal their plain formulas, whatever the number of tokens and the precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from f2llm.model.decoder import Decoder, rotary
from f2llm.model.fused import (
    CHUNKED,
    PLAIN,
    Fused,
    compile_fused,
    norm_rotate,
    plain_norm_rotate,
    plain_swiglu,
    swiglu,
)
from tests.conftest import SMALL, random_decoder

_CHUNK = 64
TOKENS = [1, _CHUNK - 1, _CHUNK, _CHUNK + 1, 3 * _CHUNK + 5]
# type -> tolerance of values and gradients, relative to the largest
PRECISE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}
EPS = 1e-6
CU = [0, 5, 6, 9, 9 + _CHUNK, 90]  # the first is a prefix that three continue
COMPILER = any(map(shutil.which, ("g++", "c++", "clang++")))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("f2llm.model.fused.chunk_tokens", lambda x: _CHUNK)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def norm_rotate_inputs(tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return random(tokens, 3, 16, dtype=dtype, seed=1), random(16, dtype=dtype, seed=2)


def rope_of(tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return rotary(torch.arange(tokens), SMALL, dtype)


def with_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The value, and the gradients of all inputs for one upstream gradient."""
    out = function(*inputs)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream)]


def assert_near(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance * max(1.0, theirs.abs().max().item()))


def assert_norm_rotate(function: Callable[..., Tensor], tokens: int, dtype: torch.dtype, tolerance: float) -> None:
    inputs, rope = norm_rotate_inputs(tokens, dtype), rope_of(tokens, dtype)
    expected = with_gradients(lambda x, w: plain_norm_rotate(x, w, EPS, rope), inputs)
    assert_near(with_gradients(lambda x, w: function(x, w, EPS, rope), inputs), expected, tolerance)


def assert_swiglu(function: Callable[..., Tensor], tokens: int, dtype: torch.dtype, tolerance: float) -> None:
    inputs = random(tokens, 24, dtype=dtype, seed=3), random(tokens, 24, dtype=dtype, seed=4)
    assert_near(with_gradients(function, inputs), with_gradients(plain_swiglu, inputs), tolerance)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dtype", PRECISE)
def test_norm_rotate_equals_the_plain_formula(tokens: int, dtype: torch.dtype) -> None:
    assert_norm_rotate(norm_rotate, tokens, dtype, PRECISE[dtype])


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dtype", PRECISE)
def test_swiglu_equals_the_plain_formula(tokens: int, dtype: torch.dtype) -> None:
    assert_swiglu(swiglu, tokens, dtype, PRECISE[dtype])


@pytest.mark.parametrize("tokens", [1, _CHUNK + 2])
def test_gradients_by_hand_are_those_of_finite_differences(tokens: int) -> None:
    rope = rope_of(tokens, torch.float64)
    x, weight = random(tokens, 1, 16, seed=1), random(16, seed=2)
    assert torch.autograd.gradcheck(lambda x, w: norm_rotate(x, w, EPS, rope), (x, weight), fast_mode=tokens > 1)
    gate, up = random(tokens, 3, seed=3), random(tokens, 3, seed=4)
    assert torch.autograd.gradcheck(swiglu, (gate, up), fast_mode=tokens > 1)


@pytest.mark.parametrize("fused", [CHUNKED, PLAIN])
def test_half_precision_comes_out_where_it_came_in(fused: Fused) -> None:
    """Under autocast x is bfloat16, but weights and rotations are float32; attention wants one type."""
    x, weight = random(5, 3, 16, dtype=torch.bfloat16), random(16, dtype=torch.float32, seed=2)
    out = fused.norm_rotate(x, weight, EPS, rope_of(5, torch.float32))
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().sum(), (x, weight))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32]


def test_the_gradient_of_a_half_precision_weight_is_added_up_in_float32() -> None:
    """Of many chunks with the same sum; one rounded to bfloat16 after each would stop growing."""
    tokens = 600 * _CHUNK
    x = torch.ones(tokens, 1, 16, dtype=torch.bfloat16)
    weight = torch.ones(16, dtype=torch.bfloat16, requires_grad=True)
    rope = torch.ones(1, 1, 16).expand(tokens, 1, 16), torch.zeros(1, 1, 16).expand(tokens, 1, 16)
    norm_rotate(x, weight, EPS, rope).backward(torch.ones_like(x))
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.float(), torch.full((16,), float(tokens)), rtol=1e-2, atol=0)


def saved_numbers(function: Callable[[], Tensor]) -> dict[int, int]:
    """Numbers in each distinct tensor that is kept for the backward pass, by its place in memory."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return kept


def test_only_the_inputs_and_one_number_a_head_are_kept() -> None:
    tokens, rope = 2 * _CHUNK, rope_of(2 * _CHUNK, torch.float32)
    x, weight = norm_rotate_inputs(tokens, torch.float32)
    kept = saved_numbers(lambda: norm_rotate(x, weight, EPS, rope))
    inputs = [tensor.data_ptr() for tensor in (x, weight, *rope)]
    assert set(inputs) < set(kept)
    assert [numbers for place, numbers in kept.items() if place not in inputs] == [tokens * 3]
    gate, up = random(tokens, 24, dtype=torch.float32), random(tokens, 24, dtype=torch.float32, seed=1)
    assert set(saved_numbers(lambda: swiglu(gate, up))) == {gate.data_ptr(), up.data_ptr()}


def ids(seed: int = 0) -> Tensor:
    return torch.randint(0, SMALL.vocab_size, (CU[-1],), generator=torch.Generator().manual_seed(seed))


def embedded(decoder: Decoder, *, half: bool = False) -> list[Tensor]:
    """Embeddings, and the gradient of every parameter."""
    decoder.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        E_ND = decoder(ids(), CU, last_token_only=True, continuations=3).float()
    (E_ND * torch.linspace(-1, 1, E_ND.numel()).view_as(E_ND)).sum().backward()
    return [E_ND.detach(), *(p.grad.clone() for p in decoder.parameters() if p.grad is not None)]


@pytest.mark.parametrize("recompute", [False, True])
def test_a_decoder_of_plain_parts_gives_the_same(recompute: bool) -> None:
    decoder = random_decoder(SMALL)
    decoder.checkpoint_activations = recompute
    chunked = embedded(decoder)
    assert len(chunked) == 1 + len(list(decoder.parameters()))
    decoder.use_fused(PLAIN)
    assert_near(embedded(decoder), chunked, 1e-5)


@pytest.mark.parametrize("fused", [CHUNKED, PLAIN])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_decoder_in_mixed_precision_stays_close(fused: Fused, recompute: bool) -> None:
    decoder = random_decoder(SMALL)
    expected = embedded(decoder)
    decoder.use_fused(fused)
    decoder.checkpoint_activations = recompute
    found = embedded(decoder, half=True)
    assert F.cosine_similarity(found[0], expected[0], dim=-1).min() > 0.999
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert mine.dtype == torch.float32
        assert mine.isfinite().all()
        assert F.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.99


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler on a CPU; install g++ or clang++")
def test_the_compiled_form_gives_the_same() -> None:
    compiled = compile_fused()
    for tokens in TOKENS:
        assert_norm_rotate(compiled.norm_rotate, tokens, torch.float32, 5e-6)
        assert_swiglu(compiled.swiglu, tokens, torch.float32, 5e-6)
    decoder = random_decoder(SMALL)
    expected = embedded(decoder)
    decoder.use_fused(compiled)
    assert_near(embedded(decoder), expected, 1e-5)
    found, mixed = embedded(decoder, half=True), embedded(random_decoder(SMALL), half=True)
    assert F.cosine_similarity(found[0], mixed[0], dim=-1).min() > 0.999
