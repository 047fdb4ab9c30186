"""Vectors after the model: truncation to a matryoshka dimension, unit length, cosine. All float32, all NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError

Vectors = NDArray[np.float32]
_TINY = np.float32(1e-12)


def normalize(vectors: NDArray[Any]) -> Vectors:
    """Rows of unit length [..., D]; a zero row stays zero."""
    found = np.asarray(vectors, dtype=np.float32)
    length = np.sqrt(np.einsum("...d,...d->...", found, found))[..., None]
    scaled: Vectors = found / np.maximum(length, _TINY)
    return scaled


def truncate(vectors: NDArray[Any], dim: int | None, *, renormalize: bool = True) -> Vectors:
    """The first `dim` components [..., dim] (all for None), of unit length again unless `renormalize` is False."""
    size = vectors.shape[-1]
    if dim is not None and not 1 <= dim <= size:
        raise ConfigError(f"truncate_dim is {dim}; the vectors have {size} dimensions, give 1 to {size}")
    prefix = np.asarray(vectors[..., :dim], dtype=np.float32)
    return normalize(prefix) if renormalize else prefix


def cosine(a: NDArray[Any], b: NDArray[Any]) -> Vectors:
    """Cosine similarities [A, B] of the rows of `a` [A, D] and `b` [B, D]; single vectors count as one row."""
    product: Vectors = normalize(np.atleast_2d(a)) @ normalize(np.atleast_2d(b)).T
    return product
