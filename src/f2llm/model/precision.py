"""Vectors in the number types that a search stores: float32, float16, int8, uint8, and one bit a dimension.

A stored vector depends on nothing but the vector itself. sentence-transformers takes the ranges for int8 and uint8 from
the batch or from a calibration set, so that there a vector changes with its company; here the rule is fixed:

  int8     the vector's largest number becomes 127 or -127, the others keep their proportion, rounded to even
  uint8    int8 + 128
  ubinary  the signs (above zero is 1), eight dimensions a byte, the first one highest, as in sentence-transformers
  binary   ubinary - 128, as int8, as in sentence-transformers

The length of a vector is lost from int8 on; vectors here have length one and are compared by cosine, so nothing else
is. Cosines of int8 differ from those of float32 by about 0.001 at 320 dimensions.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError
from f2llm.model.vectors import Quantized, Vectors, dequantize, quantize

Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_TYPES: dict[Precision, Any] = {
    "float32": np.float32, "float16": np.float16, "int8": np.int8, "uint8": np.uint8,
    "binary": np.int8, "ubinary": np.uint8,
}  # fmt: skip
_BITS = ("binary", "ubinary")
_ZERO = 128


def check_precision(name: str, dim: int) -> Precision:
    """`name` as a precision; ConfigError for an unknown one and for bits that do not fill their last byte."""
    for known in PRECISIONS:
        if name == known:
            if name in _BITS and dim % 8:
                raise ConfigError(f"precision {name} packs 8 dimensions a byte, and {dim} is no multiple of 8")
            return known
    raise ConfigError(f"precision is {name!r}; give one of {', '.join(PRECISIONS)}")


def empty(rows: int, dim: int, precision: Precision) -> NDArray[Any]:
    """Room for so many vectors of `dim` dimensions: [rows, dim], or [rows, dim / 8] for bits."""
    return np.empty((rows, dim // 8 if precision in _BITS else dim), dtype=_TYPES[precision])


def to_precision(vectors_ND: Vectors, precision: Precision) -> NDArray[Any]:
    """Vectors [N, D] in the type of `precision`; see the module."""
    if precision in ("float32", "float16"):
        return vectors_ND.astype(_TYPES[precision], copy=False)
    if precision in _BITS:
        bits = quantize(vectors_ND, "binary").codes
        return bits if precision == "ubinary" else (bits ^ _ZERO).view(np.int8)
    steps = quantize(vectors_ND, "int8").codes
    return steps if precision == "int8" else steps.view(np.uint8) ^ _ZERO


def from_precision(stored: NDArray[Any], precision: Precision) -> Vectors:
    """Vectors [N, D] in float32, of whatever length, with the directions that were stored; ConfigError for a type
    that `precision` does not have."""
    found = np.asarray(stored)
    if found.dtype != _TYPES[precision]:
        raise ConfigError(f"vectors of type {found.dtype} are not of precision {precision}; say which they are of")
    if precision in _BITS:
        bits = found if precision == "ubinary" else found.view(np.uint8) ^ _ZERO
        return dequantize(Quantized(bits, np.empty(0, np.float32), 8 * found.shape[-1], "binary"))
    if precision == "uint8":
        found = (found ^ _ZERO).view(np.int8)
    return found.astype(np.float32)
