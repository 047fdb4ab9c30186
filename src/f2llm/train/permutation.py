"""A random-looking order of 0..n-1 that is computed place by place: no memory and no start-up, whatever n.

A Feistel network (Luby and Rackoff 1988) permutes the smallest power of two that holds n; what lands outside of 0..n-1
is mapped again until it lands inside (cycle walking, Black and Rogaway 2002), at most twice on average.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_UINT64 = np.uint64
_GOLDEN = _UINT64(0x9E3779B97F4A7C15)
_ROUNDS = 16  # with 8, orders of five places differ in frequency by a factor of two


def permuted(positions: NDArray[np.int64], n: int, *key: str | int) -> NDArray[np.int64]:
    """What stands at `positions` of the order of 0..n-1 that belongs to `key`."""
    if positions.size and not (positions.min() >= 0 and positions.max() < n):
        raise ValueError(f"positions must be in 0..{n - 1}")
    bits = max(2, (n - 1).bit_length())
    keys = mixed(_UINT64(key64(*key)) + _GOLDEN * np.arange(1, _ROUNDS + 1, dtype=_UINT64))
    values = _network(positions.astype(_UINT64), bits, keys)
    outside = np.flatnonzero(values >= n)
    while outside.size:
        values[outside] = _network(values[outside], bits, keys)
        outside = outside[values[outside] >= n]
    return values.astype(np.int64)


def key64(*key: str | int) -> int:
    """64 bits that depend on every part of `key`."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): each bit of the result depends on all bits of `x`."""
    x = (x ^ (x >> _UINT64(30))) * _UINT64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _UINT64(27))) * _UINT64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> _UINT64(31)))


def _network(x: NDArray[np.uint64], bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of the numbers of `bits` bits: each half in turn is changed by a function of the other."""
    shift = _UINT64(bits // 2)
    low_mask, high_mask = _UINT64((1 << bits // 2) - 1), _UINT64((1 << (bits - bits // 2)) - 1)
    high, low = x >> shift, x & low_mask
    for high_key, low_key in keys.reshape(-1, 2):
        high ^= mixed(low + high_key) & high_mask
        low ^= mixed(high + low_key) & low_mask
    return np.asarray((high << shift) | low)
