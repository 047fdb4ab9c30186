"""An encoder without a model: vectors drawn from the words of a text, so that texts with common words are near."""

from __future__ import annotations

from zlib import crc32

import numpy as np

from f2llm.apps.encoding import TextEncoder
from f2llm.model.vectors import Vectors, normalize

DIMS = 24


def word_vectors(texts: list[str]) -> Vectors:
    """[N, 24]: the sum of a random vector for each word."""
    rows = [np.sum([_word(word) for word in text.split()], axis=0) for text in texts]
    return normalize(np.array(rows))


def _word(word: str) -> Vectors:
    return np.random.default_rng(crc32(word.encode())).normal(size=DIMS).astype(np.float32)


def word_encoder(fingerprint: str = "words") -> TextEncoder:
    return TextEncoder(word_vectors, "word-model", fingerprint, DIMS)
