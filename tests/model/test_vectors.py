from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from f2llm.core.errors import ConfigError
from f2llm.model import vectors
from f2llm.model.vectors import cosine, dequantize, quantize

_ROWS = arrays(np.int64, (5, 13), elements=st.integers(-1000, 1000)).map(lambda rows: (rows / 700).astype(np.float32))


def test_unit_length_and_zero_rows() -> None:
    found = vectors.normalize(np.array([[3.0, 4.0], [0.0, 0.0], [1e-4, 0.0]], dtype=np.float64))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [1, 0]], atol=1e-6)


def test_truncation_keeps_the_prefix() -> None:
    full = np.array([[3.0, 4.0, 12.0]], dtype=np.float32)
    np.testing.assert_allclose(vectors.truncate(full, 2), [[0.6, 0.8]], atol=1e-6)
    np.testing.assert_array_equal(vectors.truncate(full, 2, renormalize=False), [[3, 4]])
    np.testing.assert_allclose(vectors.truncate(full[0], None), full[0] / 13, atol=1e-6)


@pytest.mark.parametrize("dim", [0, -1, 4])
def test_impossible_dimensions_are_named(dim: int) -> None:
    with pytest.raises(ConfigError, match=f"truncate_dim is {dim}; the vectors have 3"):
        vectors.truncate(np.ones((1, 3), dtype=np.float32), dim)


def test_cosine_takes_rows_or_single_vectors_of_any_length() -> None:
    found = vectors.cosine(np.array([2.0, 0.0]), np.array([[5.0, 0.0], [0.0, 0.1], [-1.0, 0.0]]))
    np.testing.assert_allclose(found, [[1, 0, -1]], atol=1e-6)


@settings(deadline=None)
@given(_ROWS)
def test_int8_has_255_steps_and_is_near(vectors_ND: Any) -> None:
    stored = quantize(vectors_ND, "int8")
    assert (stored.codes.dtype, stored.codes.shape, stored.scales.shape) == (np.int8, (5, 13), (5,))
    largest = np.abs(vectors_ND).max(axis=1)
    np.testing.assert_array_equal(np.abs(stored.codes.astype(int)).max(axis=1), np.where(largest > 0, 127, 0))
    assert (np.abs(dequantize(stored) - vectors_ND) <= largest[:, None] / 254 * 1.01).all()


@settings(deadline=None)
@given(_ROWS, _ROWS)
def test_binary_cosine_counts_equal_signs(a: Any, b: Any) -> None:
    stored = quantize(a, "binary")
    assert (stored.codes.dtype, stored.codes.shape, stored.scales.shape) == (np.uint8, (5, 2), (0,))
    found = cosine(dequantize(stored), dequantize(quantize(b, "binary")))
    equal = ((a > 0)[:, None, :] == (b > 0)[None, :, :]).sum(axis=2)
    np.testing.assert_allclose(found, 2 * equal / 13 - 1, atol=1e-5)


def test_stored_forms_by_hand() -> None:
    row = np.array([[1.27, -0.635, 0.0, 0.006]], dtype=np.float32)
    np.testing.assert_array_equal(quantize(row, "int8").codes, [[127, -64, 0, 1]])  # 63.5 goes to the even one
    np.testing.assert_array_equal(quantize(row, "binary").codes, [[0b1001_0000]])
    np.testing.assert_array_equal(dequantize(quantize(row, "binary")), [[0.5, -0.5, -0.5, 0.5]])
    np.testing.assert_array_equal(dequantize(quantize(row, "float32")), row)
    with pytest.raises(ConfigError, match="precision is 'int4'; give one of float32, int8, binary"):
        quantize(row, "int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_scores_of_the_stored_form_are_those_of_rounding_in_place(precision: Any) -> None:
    """The arithmetic that scores were computed with before there was a stored form, to the bit."""
    rows = vectors.normalize(np.random.default_rng(0).normal(size=(64, 40)))
    scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    one = np.float32(1 / np.sqrt(40))
    plain = np.rint(rows / scale).astype(np.float32) * scale if precision == "int8" else np.where(rows > 0, one, -one)
    np.testing.assert_array_equal(dequantize(quantize(rows, precision)), plain)
