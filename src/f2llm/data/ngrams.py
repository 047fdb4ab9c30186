"""A cheap encoder: hashed character n-grams, the stand-in for a neural model where none exists yet.

Texts are case-folded; every run of 2, 3 and 4 characters (the ends of the text count as a character) adds +1 or -1 to
one of `dim` places chosen by a hash, and the vector is normalised: the signed hashing trick of Weinberger et al. 2009.
Same text, same vector, on every machine. numpy only; 100,000 names of 20 characters take about 2 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from f2llm.data.mine_rules import Encoder

SIZES = (2, 3, 4)
_BLOCK_CHARS = 400_000
_MULTIPLIER, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def ngram_encoder(dim: int = 512) -> Callable[[list[str]], NDArray[np.float32]]:
    """An encoder from texts to unit vectors of shape [N, dim]."""

    def encode(texts: list[str]) -> NDArray[np.float32]:
        blocks = [_encode_block(block, dim) for block in _blocks(texts)]
        return np.concatenate([*blocks, np.empty((0, dim), np.float32)])

    return encode


def make_ngram_encoder() -> Encoder:
    """The encoder of 512 dims, for queries and documents alike, as `mine_source` asks for one."""
    encode = ngram_encoder()
    return Encoder(encode, encode)


def _blocks(texts: list[str]) -> Iterator[list[str]]:
    """Runs of padded texts of bounded length together, so that memory does not grow with the list."""
    block, chars = [], 0
    for text in texts:
        block.append(f" {text.casefold()} ")
        chars += len(text)
        if chars > _BLOCK_CHARS or len(block) == 4096:
            yield block
            block, chars = [], 0
    if block:
        yield block


def _encode_block(texts: list[str], dim: int) -> NDArray[np.float32]:
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    total = np.zeros(len(texts) * dim)
    hashes = codes
    for size in range(2, max(SIZES) + 1):
        hashes = hashes[:-1] * _MULTIPLIER + codes[size - 1 :]  # a polynomial in the characters, modulo 2**64
        if size in SIZES:
            whole = owner[: len(hashes)] == owner[size - 1 :]
            total += _signed_counts(hashes[whole], owner[: len(hashes)][whole], len(total), dim)
    V_ND = total.reshape(len(texts), dim)
    norms = np.linalg.norm(V_ND, axis=1, keepdims=True)
    return (V_ND / np.where(norms == 0, 1, norms)).astype(np.float32)


def _signed_counts(hashes: NDArray[np.uint64], owner: NDArray[np.int64], places: int, dim: int) -> NDArray[np.float64]:
    mixed = (hashes ^ (hashes >> np.uint64(31))) * _MIX
    mixed ^= mixed >> np.uint64(29)
    place = owner * dim + (mixed % np.uint64(dim)).astype(np.int64)
    sign = 1.0 - 2.0 * (mixed >> np.uint64(63)).astype(np.float64)
    counts: NDArray[np.float64] = np.bincount(place, sign, places).astype(np.float64, copy=False)
    return counts
