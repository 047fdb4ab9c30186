"""Products with weights laid out once: the values of F.linear, whatever the number of rows, and each row by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from f2llm.core.errors import ConfigError
from f2llm.model.engines.products import product

ERRORS = {torch.float32: 1e-6, torch.float16: 5e-4, torch.int8: 0.03, torch.bfloat16: 1e-2}


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(96, 40, generator=torch.Generator().manual_seed(0))


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ERRORS, ids=str)
@pytest.mark.parametrize("count", [1, 4, 5, 31, 33, 64, 65, 200, 256, 300])
def test_any_number_of_rows_is_multiplied(kind: torch.dtype, count: int, weight: torch.Tensor) -> None:
    found, expected = product(weight, kind)(rows(count)), F.linear(rows(count), weight)
    assert (found.dtype, found.shape) == (torch.float32, expected.shape)
    assert (found - expected).norm() < ERRORS[kind] * expected.norm()


@pytest.mark.parametrize("kind", ERRORS, ids=str)
def test_a_row_does_not_depend_on_those_beside_it(kind: torch.dtype, weight: torch.Tensor) -> None:
    multiply, x = product(weight, kind), rows(9)
    beside = torch.cat([x, 1000 * rows(3)])
    torch.testing.assert_close(multiply(beside)[:9], multiply(x), atol=1e-5, rtol=1e-5)


def test_eight_bits_take_zeros_and_large_numbers(weight: torch.Tensor) -> None:
    weight[3] = 0
    x = torch.stack([torch.zeros(40), torch.full((40,), 1e20), torch.eye(40)[7]])
    found = product(weight, torch.int8)(x)
    assert torch.equal(found[0], torch.zeros(96))
    assert torch.isfinite(found).all()
    assert torch.equal(found[:, 3], torch.zeros(3))


def test_the_largest_codes_do_not_overflow() -> None:
    """Pairs of products are added in 16 bits on AVX2: all inputs and weights at their largest are the worst case."""
    weight, x = torch.ones(16, 64), torch.ones(2, 64)
    torch.testing.assert_close(product(weight, torch.int8)(x), torch.full((2, 16), 64.0), rtol=1e-5, atol=0)
    torch.testing.assert_close(product(-weight, torch.int8)(x), torch.full((2, 16), -64.0), rtol=1e-5, atol=0)


def test_other_processors_are_told(weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack"], raising=False)
    with pytest.raises(ConfigError, match="need an x86 processor"):
        product(weight, torch.int8)
