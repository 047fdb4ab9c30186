"""What two texts have in common: hashed n-grams of characters, MinHash bands, and the exact Jaccard similarity.

Used by `dedup` (texts that are alike) and `decontaminate` (texts that hold others). Everything is computed for many
texts at once, in slices of a million characters: 60 MB of memory, whatever the number of texts. A text of 130
characters takes 2 microseconds for its n-grams and 20 for its bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from f2llm.core.extras import optional
from f2llm.data.keys import stable_hash

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
GRAM = 5
PERMUTATIONS, BANDS, BAND_ROWS = 128, 21, 6
_SEED = 20260101
_SLICE_CHARS = 1_000_000  # characters whose n-grams are held at a time: 60 MB
_ODD: U64 = np.random.default_rng(_SEED).integers(1, 2**63, 64, dtype=np.uint64) | np.uint64(1)


def mix(values: U64) -> U64:
    """Spread 64-bit values evenly (the finaliser of SplitMix64: Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def grams(texts: Sequence[str], size: int = GRAM) -> tuple[U64, I64]:
    """Hashes of the character n-grams of all texts in one array, and where each text's begin: [N + 1].

    A text that is shorter than `size` is one gram, an empty one none. About 60 bytes of memory a character.
    """
    codes = np.frombuffer("".join(text + "\0" * size for text in texts).encode("utf-32-le", "surrogatepass"), "<u4")
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    counts = np.where(lengths > 0, np.maximum(lengths - size + 1, 1), 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    starts = np.cumsum(lengths + size) - (lengths + size)
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
    hashes = np.zeros(max(len(codes) - size + 1, 0), np.uint64)
    for place in range(size):
        hashes += codes[place : place + len(hashes)].astype(np.uint64) * _ODD[place]
    found: U64 = hashes[places]
    return mix(found), offsets


def slices(lengths: Sequence[int], limit: int = _SLICE_CHARS) -> Iterator[slice]:
    """Runs of items whose lengths add up to at most `limit` (or a single item)."""
    start = total = 0
    for place, length in enumerate(lengths):
        if place > start and total + length > limit:
            yield slice(start, place)
            start, total = place, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))


def band_hashes(texts: Sequence[str]) -> U64:
    """[N, 21]: hashes of the bands of the MinHash signatures; texts that share one are candidates.

    Banding after Broder (1997) and Indyk and Motwani (1998); the signature is rensa's R-MinHash.
    """
    minhash = optional("rensa", "data").RMinHash
    parts = [np.zeros((0, BANDS), np.uint64)]
    for run in slices([len(text) + GRAM for text in texts]):
        hashes, offsets = grams(texts[run])
        matrix = minhash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), PERMUTATIONS, _SEED)
        rows = np.array(matrix.to_rows(), np.uint64)[:, : BANDS * BAND_ROWS].reshape(-1, BANDS, BAND_ROWS)
        parts.append(mix((rows * _ODD[:BAND_ROWS]).sum(axis=2, dtype=np.uint64) + _ODD[-BANDS:]))
    return np.concatenate(parts)


def jaccard(left: Sequence[str], right: Sequence[str]) -> NDArray[np.float64]:
    """Similarity of the sets of 5-grams of each pair of texts: common over all; 0 for two empty texts."""
    found = [np.zeros(0)]
    lengths = [len(a) + len(b) + 2 * GRAM for a, b in zip(left, right, strict=True)]
    for run in slices(lengths):
        a, b = _sets(left[run]), _sets(right[run])
        both = np.sort(np.concatenate([a, b]))
        common = both[1:][both[1:] == both[:-1]]
        sizes = [np.bincount(_owners(part), minlength=len(left[run])) for part in (a, b)]
        shared = np.bincount(_owners(common), minlength=len(left[run]))
        found.append(shared / np.maximum(sizes[0] + sizes[1] - shared, 1))
    return np.concatenate(found)


def _sets(texts: Sequence[str]) -> U64:
    """Distinct grams of each text, sorted: 20 bits of the text's number, 44 of the gram's hash."""
    hashes, offsets = grams(texts)
    owners = np.repeat(np.arange(len(texts), dtype=np.uint64), np.diff(offsets))
    keys = np.sort((owners << np.uint64(44)) | (hashes >> np.uint64(20)))
    last: NDArray[np.bool_] = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    return np.asarray(keys[last], np.uint64)


def _owners(sets: U64) -> I64:
    """The text's number in each item of `_sets`."""
    return (sets >> np.uint64(44)).astype(np.int64)


def text_key(folded: str) -> int:
    """64 bits of a folded text; 0 for an empty one."""
    return (stable_hash(folded) or 1) if folded else 0
