"""The rule by which hard negatives are taken, the encoder that it asks, and the hashes that stand for texts."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import DataError
from f2llm.data.keys import fold, stable_hash

Vectors = NDArray[np.float32]
Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
Encode = Callable[[list[str]], Vectors]


@dataclass(frozen=True)
class MineRules:
    """Rank window, ceiling and margin (F2LLM v1, section 3.2), and what is compared with what; see `mine`.

    `pool`: a row is compared with at most about so many documents of a language.
    """

    per_query: int = 24
    skip_top: int = 5
    top_k: int = 100
    max_score: float = 0.8
    relative_margin: float = 0.95
    same_language: bool = True
    anchor: Literal["query", "positive"] = "query"
    pool: int = 50_000
    seed: int = 0


@dataclass(frozen=True)
class Encoder:
    """Texts to vectors [N, D] of any length: `encode` for documents, `encode_query` for queries."""

    encode: Encode
    encode_query: Encode


def unit_vectors(encode: Encode, texts: list[str]) -> Vectors:
    """Vectors of unit length [N, D] in float32; DataError where the encoder gives another number of them, or NaN."""
    V_ND = np.asarray(encode(texts), np.float32)
    norms = np.linalg.norm(V_ND, axis=-1, keepdims=True)
    if V_ND.ndim != 2 or len(V_ND) != len(texts) or not np.isfinite(norms).all():
        raise DataError(f"the encoder gave an array {list(V_ND.shape)} for {len(texts)} texts, or numbers not finite")
    return (V_ND / np.where(norms == 0, 1, norms)).astype(np.float32, copy=False)


_last: tuple[bytes, Encoder] | None = None


def encoder_of(make_encoder: Callable[[], Encoder]) -> Encoder:
    """What `make_encoder` makes, once in each process as long as the same is asked for."""
    global _last
    key = pickle.dumps(make_encoder)
    if _last is None or _last[0] != key:
        _last = None  # a model's memory is free before the next one is read
        _last = (key, make_encoder())
    return _last[1]


def text_key(text: str) -> int:
    """64 bits for a text; equal where `fold` is."""
    return stable_hash(fold(text))


def label_key(label: str | None) -> int:
    """64 bits for the label of a row; 0 for none."""
    return 0 if label is None else stable_hash("label", label) or 1


def mix(values: Keys, seed: int) -> Keys:
    """Hashes of numbers under a seed: the finalizer of splitmix64 (Steele, Lea and Flood 2014)."""
    mixed = values + np.uint64(stable_hash("mine", seed))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def matches(ascending: Keys | Ints, wanted: Keys | Ints) -> tuple[Ints, Ints]:
    """All pairs (index in `wanted`, index in `ascending`) of equal values, sorted by the first."""
    low, high = np.searchsorted(ascending, wanted), np.searchsorted(ascending, wanted, "right")
    counts = high - low
    owner = np.repeat(np.arange(len(wanted)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts - low, counts)
