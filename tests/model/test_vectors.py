import numpy as np
import pytest

from f2llm.core.errors import ConfigError
from f2llm.model import vectors


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
