"""Vectors after the model: truncation to a matryoshka dimension, unit length, cosine, stored forms. All NumPy.

Stored forms: int8 is one scale a vector, its largest number over 127, and steps rounded to even; binary is the sign
alone (above zero is 1), eight dimensions a byte. `dequantize` gives float32 again, so cosines are those of the stored
numbers. Bytes a vector of D dimensions: float32 4 D, int8 D + 4, binary D / 8 rounded up.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError

Vectors = NDArray[np.float32]
Precision = Literal["float32", "int8", "binary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
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


class Quantized(NamedTuple):
    """Vectors as they are stored: `codes` float32 [N, D], int8 [N, D] or packed bits uint8 [N, ceil(D / 8)].

    `scales` [N] belong to int8 and are empty otherwise; `dim` is D.
    """

    codes: NDArray[Any]
    scales: Vectors
    dim: int
    precision: Precision


def quantize(vectors_ND: NDArray[Any], precision: Precision) -> Quantized:
    """The stored form of vectors [N, D]; a zero vector stays zero in int8. ConfigError for an unknown precision."""
    found, no_scales = np.asarray(vectors_ND, dtype=np.float32), np.empty(0, dtype=np.float32)
    if precision == "float32":
        return Quantized(found, no_scales, found.shape[1], precision)
    if precision == "int8":
        scales_N = np.abs(found).max(axis=1, initial=0) / np.float32(127)
        steps_ND = np.rint(found / np.where(scales_N > 0, scales_N, 1)[:, None])
        # A vector of the smallest numbers there are has a scale that is rounded: its steps may pass 127.
        return Quantized(np.clip(steps_ND, -127, 127).astype(np.int8), scales_N, found.shape[1], precision)
    if precision == "binary":
        return Quantized(np.packbits(found > 0, axis=1), no_scales, found.shape[1], precision)
    raise ConfigError(f"precision is {precision!r}; give one of {', '.join(PRECISIONS)}")


def dequantize(stored: Quantized) -> Vectors:
    """Vectors [N, D] in float32 out of their stored form; those of binary have unit length."""
    if stored.precision == "int8":
        back_ND: Vectors = stored.codes.astype(np.float32) * stored.scales[:, None]
        return back_ND
    if stored.precision == "binary":
        one = np.float32(1 / np.sqrt(max(stored.dim, 1)))
        bits_ND = np.unpackbits(stored.codes, axis=1, count=stored.dim).astype(bool)
        signs_ND: Vectors = np.where(bits_ND, one, -one)
        return signs_ND
    return np.asarray(stored.codes, dtype=np.float32)


def cosine(a: NDArray[Any], b: NDArray[Any]) -> Vectors:
    """Cosine similarities [A, B] of the rows of `a` [A, D] and `b` [B, D]; single vectors count as one row."""
    product: Vectors = normalize(np.atleast_2d(a)) @ normalize(np.atleast_2d(b)).T
    return product
