"""Number types of stored vectors: the stated rules, sentence-transformers' bits, a vector without its company."""

from __future__ import annotations

import numpy as np
import pytest

from f2llm.core.errors import ConfigError
from f2llm.model.precision import PRECISIONS, check_precision, empty, from_precision, to_precision
from f2llm.model.vectors import cosine, normalize


@pytest.fixture
def unit() -> np.ndarray:
    return normalize(np.random.default_rng(0).normal(size=(40, 64)))


def test_the_largest_number_becomes_127() -> None:
    row = np.array([[0.5, -1.0, 0.0, 0.003]], dtype=np.float32)
    np.testing.assert_array_equal(to_precision(row, "int8"), [[64, -127, 0, 0]])  # 63.5 goes to the even one
    np.testing.assert_array_equal(to_precision(row, "uint8"), [[192, 1, 128, 128]])
    assert to_precision(np.zeros((1, 4), np.float32), "int8").tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_are_those_of_sentence_transformers(unit: np.ndarray, precision: str) -> None:
    from sentence_transformers.quantization import quantize_embeddings

    found = to_precision(unit, check_precision(precision, 64))
    expected = quantize_embeddings(unit, precision=precision)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_vector_does_not_depend_on_its_company(unit: np.ndarray, precision: str) -> None:
    kind = check_precision(precision, 64)
    together = to_precision(unit, kind)
    room = empty(len(unit), 64, kind)
    assert (room.shape, room.dtype) == (together.shape, together.dtype)
    for row, vector in enumerate(unit):
        np.testing.assert_array_equal(to_precision(vector[None], kind)[0], together[row])


@pytest.mark.parametrize(("precision", "least"), [
    ("float32", 1 - 1e-6), ("float16", 1 - 1e-6), ("int8", 0.9999), ("uint8", 0.9999), ("binary", 0.7), ("ubinary", 0.7)
])  # fmt: skip
def test_directions_come_back(unit: np.ndarray, precision: str, least: float) -> None:
    kind = check_precision(precision, 64)
    back = from_precision(to_precision(unit, kind), kind)
    assert back.dtype == np.float32
    assert cosine(back, unit).diagonal().min() > least


def test_cosines_of_bits_count_equal_signs(unit: np.ndarray) -> None:
    a, b = (from_precision(to_precision(rows, "binary"), "binary") for rows in (unit[:5], unit[5:9]))
    equal = ((unit[:5, None] > 0) == (unit[None, 5:9] > 0)).mean(-1)
    np.testing.assert_allclose(cosine(a, b), 2 * equal - 1, atol=1e-6)


def test_mistakes_are_told(unit: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="precision is 'int4'; give one of float32, float16, int8"):
        check_precision("int4", 64)
    with pytest.raises(ConfigError, match="and 12 is no multiple of 8"):
        check_precision("binary", 12)
    with pytest.raises(ConfigError, match="vectors of type int8 are not of precision uint8"):
        from_precision(to_precision(unit, "int8"), "uint8")
